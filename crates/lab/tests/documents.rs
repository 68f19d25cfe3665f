//! The commands of the user documentation, as they are written there: a block below `<!-- lab NAME=VALUE … -->` is run
//! with these words replaced, in the order of the pages, beside the API of one lab.

mod common;

use std::{env, fs, path::Path};

const PAGES: [&str; 3] = ["annotations.md", "vpn-server.md", "vpn.md"];

#[test]
fn the_commands_in_the_documents_work() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let lab = common::converged(common::with_agents("docs"));
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    // Where `make` has installed it; elsewhere it is in the search path.
    let kubectl = env::var("KUBECTL").ok().map(std::path::PathBuf::from);
    let kubectl = kubectl.as_deref().and_then(Path::parent).unwrap_or(Path::new("/usr/bin")).display();
    let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built");
    let kgctl = kgctl.parent().expect("it is in a directory").display();
    let mut ran = 0;
    for page in PAGES {
        let text = fs::read_to_string(docs.join(page)).expect("the page is there");
        for block in blocks(&text) {
            let script = format!("cd {}; PATH={kgctl}:{kubectl}:$PATH\n{block}", directory.path().display());
            let output = lab.exec("api", &["sh", "-ec", &script]).expect("there is a shell");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: {}: {said}\n{block}", output.status);
            ran += 1;
        }
    }
    assert_eq!(ran, 5, "blocks that are marked and were run");
    let peers = fs::read_to_string(directory.path().join("peers.conf")).expect("showconf wrote it");
    assert!(peers.contains("192.168.77.0/24"), "the range of a location is missing: {peers}");
}

/// The marked blocks of a page, without what they are indented by and with their words replaced.
fn blocks(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(words) = line.trim().strip_prefix("<!-- lab").and_then(|rest| rest.strip_suffix("-->"))
        else {
            continue;
        };
        let fence = lines.next().expect("a block follows the mark");
        let indent = fence.len() - fence.trim_start().len();
        assert!(fence.trim().starts_with("```"), "no block follows {line}");
        let body = lines.by_ref().take_while(|line| line.trim() != "```");
        let mut block =
            body.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
        for (name, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            block = block.replace(name, value);
        }
        found.push(block);
    }
    found
}
