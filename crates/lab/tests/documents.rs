//! The commands of the user documentation, as they are written there: a block below `<!-- lab NAME=VALUE … -->` is run
//! with these words replaced, in the order of the pages, beside the API of one lab.

mod common;

use std::{fs, path::Path};

const PAGES: [&str; 3] = ["annotations.md", "vpn-server.md", "vpn.md"];

#[test]
fn the_commands_in_the_documents_work() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let lab = common::converged(common::with_agents("docs"));
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let mut ran = 0;
    for page in PAGES {
        let text = fs::read_to_string(docs.join(page)).expect("the page is there");
        for block in common::blocks(&text, &[]) {
            let script = format!("cd {}; {}\n{block}", directory.path().display(), common::tools());
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
