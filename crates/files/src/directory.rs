//! Directories in which nobody else can replace files.

use std::{
    fs::{self, DirBuilder, Metadata},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{Error, own_uid};

/// Others may write to the directory, but remove and rename nothing that is not theirs (`/tmp`).
const STICKY: u32 = 0o1000;

/// Makes a directory, with those that lead to it, unless it is there; then checks it as [`check_directory`] does. `mode`
/// are the permissions of those that are made.
///
/// # Errors
/// When it cannot be made, or others could replace files in it.
pub fn make_directory(directory: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.map_err(|reason| Error::Io { attempt: "make the directory", path: directory.to_owned(), reason })?;
    check_directory(directory)
}

/// Checks that only root and the own user can replace files in a directory, or the directory itself: both own it and all
/// that lead to it, and nobody else can write there. Links on the way count by where they lead and by where they are.
///
/// # Errors
/// When others can, or it cannot be found out.
pub fn check_directory(directory: &Path) -> Result<(), Error> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |reason| Error::Io { attempt: "look at", path, reason }
    };
    let written = std::path::absolute(directory).map_err(fail(directory))?;
    let real = fs::canonicalize(directory).map_err(fail(directory))?;
    // Whoever can replace a link decides where it leads, so both ways are checked.
    for way in [&real, &written] {
        for place in way.ancestors() {
            let metadata = fs::metadata(place).map_err(fail(place))?;
            let is_goal = place == way.as_path();
            if let Some((fault, advice)) = fault(place, &metadata, is_goal, own_uid()) {
                return Err(Error::Directory {
                    directory: directory.to_owned(),
                    found: PathBuf::from(place),
                    fault,
                    advice,
                });
            }
        }
    }
    Ok(())
}

/// What is wrong with a directory, and what to do.
fn fault(place: &Path, metadata: &Metadata, is_goal: bool, own: u32) -> Option<(String, String)> {
    let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
    let name = place.display();
    if uid != 0 && uid != own {
        return Some((
            format!("belongs to the user with the id {uid}"),
            format!("check what is in it, then run: chown root {name}"),
        ));
    }
    // A directory that others write to is a place for their files. On the way there, only names matter.
    let is_guarded = !is_goal && mode & STICKY != 0;
    let by_group = mode & 0o020 != 0 && gid != 0;
    if (mode & 0o002 != 0 || by_group) && !is_guarded {
        return Some((
            "can be written by other users".to_owned(),
            format!("check what is in it, then run: chmod go-w {name}"),
        ));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn chown(path: &Path, uid: u32) {
        std::os::unix::fs::chown(path, Some(uid), None).unwrap();
    }

    #[test]
    fn a_directory_of_our_own_is_good_also_below_tmp() {
        let temporary = tempfile::tempdir().unwrap();
        let inner = temporary.path().join("a/b");
        make_directory(&inner, 0o700).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o777, 0o700);
        make_directory(&inner, 0o700).unwrap();
    }

    #[test]
    fn others_must_not_write_to_it_or_on_the_way_to_it() {
        let temporary = tempfile::tempdir().unwrap();
        let inner = temporary.path().join("a/b");
        make_directory(&inner, 0o700).unwrap();
        for (at, mode) in [("a/b", 0o702), ("a/b", 0o1777), ("a", 0o707)] {
            let path = temporary.path().join(at);
            chmod(&path, mode);
            let error = check_directory(&inner).unwrap_err().to_string();
            assert!(error.contains("can be written by other users"), "{error}");
            assert!(error.contains(&format!("chmod go-w {}", path.display())), "{error}");
            chmod(&path, 0o700);
        }
        check_directory(&inner).unwrap();
    }

    /// Needs root, as the tests of the agent do.
    #[test]
    fn somebody_elses_directory_is_not_used() {
        if own_uid() != 0 {
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        let inner = temporary.path().join("a/b");
        make_directory(&inner, 0o700).unwrap();
        for at in ["a/b", "a"] {
            let path = temporary.path().join(at);
            chown(&path, 1000);
            let error = check_directory(&inner).unwrap_err().to_string();
            assert!(error.contains("belongs to the user with the id 1000"), "{error}");
            assert!(error.contains(&format!("chown root {}", path.display())), "{error}");
            chown(&path, 0);
        }
        // A group of others can write, root's cannot be joined.
        std::os::unix::fs::chown(&inner, None, Some(1000)).unwrap();
        chmod(&inner, 0o770);
        assert!(check_directory(&inner).is_err());
        std::os::unix::fs::chown(&inner, None, Some(0)).unwrap();
        check_directory(&inner).unwrap();
    }

    #[test]
    fn a_link_is_as_good_as_where_it_is_and_where_it_leads() {
        let temporary = tempfile::tempdir().unwrap();
        for name in ["open", "shut"] {
            make_directory(&temporary.path().join(name).join("state"), 0o700).unwrap();
        }
        let link = |from: &str, to: &str| {
            let from = temporary.path().join(from);
            symlink(temporary.path().join(to), &from).unwrap();
            from
        };
        let (outward, inward) = (link("shut/out", "open/state"), link("open/in", "shut/state"));
        check_directory(&outward).unwrap();
        check_directory(&inward).unwrap();
        chmod(&temporary.path().join("open"), 0o777);
        assert!(check_directory(&outward).is_err() && check_directory(&inward).is_err());
        check_directory(&temporary.path().join("shut/state")).unwrap();
    }
}
