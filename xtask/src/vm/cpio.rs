//! Writes a cpio archive in the "newc" format, which the kernel unpacks as its first root file system.
//!
//! The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. This module knows
//! nothing of what the archive is for; everything in it belongs to root and has the time stamp zero.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Appends members to an archive. A directory must come before what it contains.
pub struct Archive<W> {
    output: W,
    written: u64,
    members: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(output: W) -> Self {
        Self { output, written: 0, members: 0 }
    }

    /// A directory with mode 0755.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, DIRECTORY | 0o755, 0)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.header(path, SYMLINK | 0o777, target.len() as u64)?;
        self.body(target.as_bytes())
    }

    /// A file with this content. `permissions` are the lowest twelve bits of its mode.
    pub fn bytes(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.header(path, REGULAR | (permissions & 0o7777), content.len() as u64)?;
        self.body(content)
    }

    /// A file with the content of `source`, which must not change meanwhile.
    pub fn file(&mut self, path: &str, permissions: u32, source: &Path) -> io::Result<()> {
        let mut file = File::open(source)?;
        let size = file.metadata()?.len();
        self.header(path, REGULAR | (permissions & 0o7777), size)?;
        let copied = io::copy(&mut file, &mut self.output)?;
        if copied != size {
            return Err(io::Error::other(format!(
                "it changed from {size} to {copied} bytes while being read"
            )));
        }
        self.written += copied;
        self.align()
    }

    /// Ends the archive and returns the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, path: &str, mode: u32, size: u64) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| io::Error::other("cpio holds files below 4 GiB"))?;
        let name = path.trim_start_matches('/');
        self.members += 1;
        let (inode, links, name_size) = (self.members, 1, name.len() + 1);
        // magic, inode, mode, uid, gid, links, time, size, device (2), device number (2), name size, checksum
        let header = format!(
            "070701{inode:08X}{mode:08X}{zero:08X}{zero:08X}{links:08X}{zero:08X}{size:08X}{zero:08X}{zero:08X}\
             {zero:08X}{zero:08X}{name_size:08X}{zero:08X}{name}\0",
            zero = 0
        );
        self.body(header.as_bytes())
    }

    fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        self.align()
    }

    /// Headers and contents start at multiples of four bytes.
    fn align(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.output.write_all(&[0])?;
            self.written += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads (name, mode, content) back, independently of the writer's state.
    fn members(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701", "no header at {at}");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&archive[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = &archive[at + 110..at + 110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            let start = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(archive.len(), start);
                return found;
            }
            found.push((name, mode, archive[start..start + size].to_vec()));
            at = (start + size).next_multiple_of(4);
        }
    }

    #[test]
    fn members_read_back() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/etc").unwrap();
        archive.bytes("/etc/hostname", 0o644, b"stock").unwrap();
        archive.bytes("/init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.symlink("/bin", "usr/bin").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = [
            ("etc", 0o040_755, &b""[..]),
            ("etc/hostname", 0o100_644, b"stock"),
            ("init", 0o100_755, b"#!/bin/sh\n"),
            ("bin", 0o120_777, b"usr/bin"),
        ];
        let expected: Vec<_> = expected.map(|(n, m, c)| (n.to_owned(), m, c.to_vec())).into();
        assert_eq!(members(&bytes), expected);
    }

    #[test]
    fn a_file_is_copied() {
        let mut archive = Archive::new(Vec::new());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        archive.file("/x", 0o644, &source).unwrap();
        let found = members(&archive.finish().unwrap());
        assert_eq!(found, [("x".to_owned(), 0o100_644, std::fs::read(source).unwrap())]);
    }
}
