//! The container image, as a directory in OCI layout and as an archive. No container daemon is needed, and the same
//! input gives the same digests: no times, names of users or order of a directory get in.

mod archive;
mod check;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::statics::StaticBuild;
use crate::workspace;
use archive::{Entry, Layer};

/// What the manifests call it.
pub const NAME: &str = concat!("localhost/kilo:", env!("CARGO_PKG_VERSION"));

/// Media types of the OCI image specification 1.1.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Builds the programs statically with this cargo profile, writes `target/image` and `target/kilo-image.tar`, and checks
/// that what is in them runs.
pub fn run(profile: &str) -> Result<()> {
    let programs = StaticBuild::new(profile)?.binaries(&["kg".to_owned(), "kgctl".to_owned()])?;
    let mut entries = Vec::new();
    for program in &programs {
        entries.push(Entry::program(&format!("opt/bin/{}", program.name), &program.path)?);
        entries.push(Entry::link(&program.name, &format!("opt/bin/{}", program.name)));
    }
    let plugins = plugins()?;
    for plugin in ["bridge", "host-local", "loopback", "portmap"] {
        let path = plugins.join(plugin);
        crate::statics::check_static(&path)?;
        entries.push(Entry::program(&format!("opt/cni/bin/{plugin}"), &path)?);
    }
    entries.push(Entry::text("usr/share/licenses/kilo/LICENSE", &workspace().join("LICENSE"))?);
    entries.push(Entry::text("usr/share/licenses/cni-plugins/copyright", &plugins.join("copyright"))?);
    let layer = Layer::of(entries)?;
    let directory = workspace().join("target/image");
    let digest = write(&directory, &layer)?;
    let archive = workspace().join("target/kilo-image.tar");
    archive::pack(&directory, &archive)?;
    check::run(&directory)?;
    println!("{NAME} {digest}\n{}\n{}", directory.display(), archive.display());
    Ok(())
}

/// The CNI plugins that the image brings, built from Debian's sources.
fn plugins() -> Result<PathBuf> {
    let script = workspace().join("scripts/build-cni-plugins");
    let output = Command::new(&script).stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    if !output.status.success() {
        bail!("cannot build the CNI plugins ({}: {})", script.display(), output.status);
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn write(directory: &Path, layer: &Layer) -> Result<String> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory.join("blobs/sha256")).context("create the image's directory")?;
    let blob = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let digest = sha256(bytes);
        let path = directory.join("blobs/sha256").join(&digest);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
    };
    let layer_blob = blob(LAYER, &layer.compressed)?;
    let config = blob(CONFIG, &serde_json::to_vec(&configuration(&layer.diff_id)?)?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer_blob],
        "annotations": labels(),
    });
    let mut entry = blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
    let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
    // containerd takes the first, podman and skopeo the second.
    entry["annotations"] = json!({
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": NAME,
    });
    entry["platform"] = json!({ "architecture": architecture()?, "os": "linux" });
    let file = |name: &str, content: &Value| -> Result<()> {
        fs::write(directory.join(name), serde_json::to_vec(content)?).with_context(|| format!("write {name}"))
    };
    file("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
    file(
        "index.json",
        &json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
        }),
    )?;
    // For `docker load` before version 25, which does not know the OCI layout.
    let path = |blob: &Value| blob["digest"].as_str().unwrap_or_default().replace("sha256:", "blobs/sha256/");
    file(
        "manifest.json",
        &json!([{ "Config": path(&config), "RepoTags": [NAME], "Layers": [path(&layer_blob)] }]),
    )?;
    Ok(digest)
}

fn configuration(diff_id: &str) -> Result<Value> {
    Ok(json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Entrypoint": ["/opt/bin/kg"],
            "Env": ["PATH=/opt/bin"],
            "Labels": labels(),
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created_by": "cargo run -p xtask -- image" }],
    }))
}

fn labels() -> Value {
    json!({
        "org.opencontainers.image.title": "kilo",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

/// Go's name for the architecture that the programs are built for.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images for {other} have not been thought of; add its Go name in xtask/src/image.rs"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_image() {
        let build = || {
            let directory = tempfile::tempdir().unwrap();
            let source = directory.path().join("program");
            fs::write(&source, "the program").unwrap();
            let entries =
                vec![Entry::link("kg", "opt/bin/kg"), Entry::program("opt/bin/kg", &source).unwrap()];
            let image = directory.path().join("image");
            let digest = write(&image, &Layer::of(entries).unwrap()).unwrap();
            let archive = directory.path().join("image.tar");
            archive::pack(&image, &archive).unwrap();
            let root = directory.path().join("root");
            archive::unpack(&image, &root).unwrap();
            assert_eq!(fs::read_to_string(root.join("kg")).unwrap(), "the program");
            (digest, sha256(&fs::read(archive).unwrap()))
        };
        assert_eq!(build(), build());
    }
}
