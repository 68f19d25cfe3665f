//! Replays the corpus of the fuzz targets, and what a little mutation makes of it.

use std::fs;
use std::path::Path;

use tunnel::fuzzing;

/// Calls `target` with every file of its corpus, with every prefix of short ones, and with single bytes changed.
fn replay(name: &str, target: fn(&[u8])) {
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
        for length in 0..data.len().min(512) {
            target(&data[..length]);
        }
        for at in 0..data.len().min(256) {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = data.clone();
                changed[at] ^= change;
                target(&changed);
            }
        }
    }
}

#[test]
fn datagrams() {
    replay("datagram", fuzzing::datagram);
}

#[test]
fn packets_of_the_interface() {
    replay("interface_packet", fuzzing::interface_packet);
}

#[test]
fn packets_to_be_joined() {
    replay("joined_packets", fuzzing::joined_packets);
}

#[test]
fn texts_of_the_uapi() {
    replay("uapi_text", fuzzing::uapi_text);
}
