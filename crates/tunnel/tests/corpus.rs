//! Replays the corpus of the fuzz targets, and what a little mutation makes of it.

use std::fs;
use std::path::Path;

use tunnel::fuzzing;

/// How much is made of each file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Every prefix, and every byte changed in three ways.
    Usual,
    /// Every byte changed in one way, where a call takes milliseconds.
    Small,
}

/// Calls `target` with every file of its corpus, with every prefix of short ones, and with single bytes changed.
fn replay(name: &str, target: fn(&[u8]), effort: Effort) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{} has a corpus", folder.display());
    for file in files {
        let data = fs::read(&file).expect("a readable file");
        eprintln!("{}", file.display());
        target(&data);
        if is_found_by_a_fuzzer(&file) {
            continue;
        }
        let (prefixes, changes): (usize, &[u8]) = match effort {
            Effort::Usual => (data.len().min(512), &[0x01, 0x80, 0xff]),
            Effort::Small => (0, &[0x80]),
        };
        for length in 0..prefixes {
            target(&data[..length]);
        }
        for at in 0..data.len().min(256) {
            for change in changes {
                let mut changed = data.clone();
                changed[at] ^= change;
                target(&changed);
            }
        }
    }
}

/// Those have the hash of their content for a name, and have been mutated already.
fn is_found_by_a_fuzzer(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn datagrams() {
    replay("datagram", fuzzing::datagram, Effort::Usual);
}

#[test]
fn messages_of_handshakes() {
    replay("handshake", fuzzing::handshake, Effort::Small);
}

#[test]
fn packets_of_a_peer() {
    replay("session", fuzzing::session, Effort::Usual);
}

#[test]
fn packets_of_the_interface() {
    replay("interface_packet", fuzzing::interface_packet, Effort::Usual);
}

#[test]
fn packets_to_be_joined() {
    replay("joined_packets", fuzzing::joined_packets, Effort::Usual);
}

#[test]
fn texts_of_the_uapi() {
    replay("uapi_text", fuzzing::uapi_text, Effort::Usual);
}
