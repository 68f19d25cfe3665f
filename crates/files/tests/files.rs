//! Files as a local user would prepare them for a program that runs as root.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
};

use files::{Audience, read_private, read_text, replace};

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn refused(path: &Path, audience: Audience) -> String {
    match read_private(path, audience) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => error.to_string(),
    }
}

fn make_pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
}

#[test]
fn a_key_is_read_and_closed_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    assert!(read_private(&path, Audience::Program).unwrap().is_none());
    write(&path, "secret\n", 0o600);
    let read = read_private(&path, Audience::Program).unwrap().unwrap();
    assert_eq!((read.text.as_str(), read.was_open), ("secret\n", false));
    write(&path, "secret\n", 0o644);
    assert!(read_private(&path, Audience::User).unwrap().unwrap().was_open);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644, "a user's file is the user's");
    assert!(read_private(&path, Audience::Program).unwrap().unwrap().was_open);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_key_that_others_can_write_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    for mode in [0o602, 0o620, 0o666] {
        write(&path, "secret", mode);
        for audience in [Audience::Program, Audience::User] {
            let said = refused(&path, audience);
            assert!(said.contains("others can write") && said.contains("chmod 600"), "{said}");
        }
    }
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(&path("real"), "secret", 0o600);
    symlink(path("real"), path("link")).unwrap();
    make_pipe(&path("pipe"));
    fs::create_dir(path("directory")).unwrap();
    for name in ["link", "pipe", "directory"] {
        let said = refused(&path(name), Audience::Program);
        assert!(said.contains("is not a regular file"), "{said}");
    }
    assert!(read_private(&path("link"), Audience::User).unwrap().is_some());
    assert!(read_text(&path("pipe")).unwrap_err().to_string().contains("not a regular file"));
    assert!(read_text(&path("directory")).is_err());
    write(&path("long"), &"x".repeat(5000), 0o600);
    assert!(refused(&path("long"), Audience::Program).contains("4096"));
    write(&path("long"), &"x".repeat(2 << 20), 0o600);
    assert!(read_text(&path("long")).unwrap_err().to_string().contains("1 MiB"));
    fs::write(path("bytes"), [0xff, 0xfe]).unwrap();
    fs::set_permissions(path("bytes"), Permissions::from_mode(0o600)).unwrap();
    refused(&path("bytes"), Audience::Program);
}

/// Needs root, as the tests of the agent do.
#[test]
fn somebody_elses_key_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, "secret", 0o600);
    chown(&path, Some(1000), Some(1000)).unwrap();
    let said = refused(&path, Audience::Program);
    assert!(said.contains("the user with the id 1000") && said.contains("chown 0 "), "{said}");
    assert!(read_private(&path, Audience::User).is_ok(), "sudo kgctl connect --private-key ~/key");
}

#[test]
fn a_file_is_replaced_whole_and_nothing_beside_it_is_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let (path, victim) = (directory.path().join("list"), directory.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    // Whoever guesses the name of the file beside prepares a link.
    symlink(&victim, directory.path().join(format!("list.kilo-new-{}", std::process::id()))).unwrap();
    replace(&path, b"new", 0o640).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(read_text(&path).unwrap(), "new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    // A link in place of the file itself is replaced, not followed.
    fs::remove_file(&path).unwrap();
    symlink(&victim, &path).unwrap();
    replace(&path, b"newer", 0o644).unwrap();
    assert_eq!(
        (fs::read_to_string(&victim).unwrap(), read_text(&path).unwrap()),
        ("precious".into(), "newer".into())
    );
}
