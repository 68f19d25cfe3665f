//! Files into a layer, a layout into an archive, and a layer back into files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use serde_json::Value;
use tar::{Archive, Builder, EntryType, Header};

/// A file or symbolic link of a layer.
pub struct Entry {
    /// Without a slash at the beginning.
    path: String,
    content: Content,
}

enum Content {
    File { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

impl Entry {
    /// A file that can be run.
    pub fn program(path: &str, source: &Path) -> Result<Self> {
        Self::file(path, source, 0o755)
    }

    /// A file to read.
    pub fn text(path: &str, source: &Path) -> Result<Self> {
        Self::file(path, source, 0o644)
    }

    /// A symbolic link.
    pub fn link(path: &str, target: &str) -> Self {
        Self { path: path.to_owned(), content: Content::Link(target.to_owned()) }
    }

    fn file(path: &str, source: &Path, mode: u32) -> Result<Self> {
        let bytes = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        Ok(Self { path: path.to_owned(), content: Content::File { bytes, mode } })
    }
}

/// A layer of an image.
pub struct Layer {
    /// The archive, compressed.
    pub compressed: Vec<u8>,
    /// SHA-256 of the archive before compression.
    pub diff_id: String,
}

impl Layer {
    /// Packs entries with their directories, sorted, owned by root, of the beginning of time.
    pub fn of(mut entries: Vec<Entry>) -> Result<Self> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut tar = Builder::new(Vec::new());
        let mut directories = BTreeSet::new();
        for entry in &entries {
            for parent in parents(&entry.path) {
                if directories.insert(parent.clone()) {
                    tar.append_data(
                        &mut header(EntryType::Directory, 0o755, 0),
                        format!("{parent}/"),
                        &[][..],
                    )?;
                }
            }
            match &entry.content {
                Content::File { bytes, mode } => {
                    let mut header = header(EntryType::Regular, *mode, bytes.len());
                    tar.append_data(&mut header, &entry.path, bytes.as_slice())?;
                }
                Content::Link(target) => {
                    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), &entry.path, target)?;
                }
            }
        }
        let plain = tar.into_inner()?;
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::new(6));
        gzip.write_all(&plain)?;
        Ok(Self { compressed: gzip.finish()?, diff_id: super::sha256(&plain) })
    }
}

/// `a/b/c` lies in `a` and `a/b`.
fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(end, _)| path[..end].to_owned()).collect()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Packs a directory in OCI layout into an archive that docker, podman and ctr load.
pub fn pack(layout: &Path, archive: &Path) -> Result<()> {
    let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned(), "manifest.json".to_owned()];
    let mut blobs = Vec::new();
    for blob in fs::read_dir(layout.join("blobs/sha256")).context("list the image's blobs")? {
        blobs.push(format!("blobs/sha256/{}", blob?.file_name().to_string_lossy()));
    }
    blobs.sort();
    names.extend(blobs);
    let file = File::create(archive).with_context(|| format!("create {}", archive.display()))?;
    let mut tar = Builder::new(file);
    for name in names {
        let bytes = fs::read(layout.join(&name)).with_context(|| format!("read {name} of the image"))?;
        tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), name, bytes.as_slice())?;
    }
    tar.into_inner()?.sync_all().with_context(|| format!("write {}", archive.display()))
}

/// Follows a layout from its index to its layers as a container runtime does, compares every digest, and unpacks.
pub fn unpack(layout: &Path, root: &Path) -> Result<()> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest: Value = serde_json::from_slice(&blob(layout, &index["manifests"][0])?)?;
    let config: Value = serde_json::from_slice(&blob(layout, &manifest["config"])?)?;
    for (number, layer) in manifest["layers"].as_array().into_iter().flatten().enumerate() {
        let mut plain = Vec::new();
        std::io::copy(&mut GzDecoder::new(blob(layout, layer)?.as_slice()), &mut plain)?;
        if config["rootfs"]["diff_ids"][number] != format!("sha256:{}", super::sha256(&plain)) {
            bail!("layer {number} is not what the image's configuration says");
        }
        Archive::new(plain.as_slice()).unpack(root).with_context(|| format!("unpack layer {number}"))?;
    }
    Ok(())
}

fn blob(layout: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.with_context(|| format!("{descriptor} has no SHA-256 digest"))?;
    let bytes =
        fs::read(layout.join("blobs/sha256").join(digest)).with_context(|| format!("read blob {digest}"))?;
    if super::sha256(&bytes) != digest || descriptor["size"] != bytes.len() {
        bail!("blob {digest} is not what its name says");
    }
    Ok(bytes)
}
