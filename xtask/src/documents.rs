//! The user documentation: writes the reference pages, and checks that links between pages lead somewhere and that
//! every annotation is described. It does not judge the text.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Writes `docs/kg.md` and `docs/kgctl.md` with what the programs say about themselves.
pub fn write() -> Result<()> {
    for program in ["kg", "kgctl"] {
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--locked", "--package", program, "--", "reference"])
            .current_dir(workspace())
            .output()
            .context("cannot run cargo")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} reference ended with {}: {said}", output.status);
        let path = workspace().join(format!("docs/{program}.md"));
        fs::write(&path, output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// All pages: README.md, SECURITY.md and docs/*.md.
    fn pages() -> Vec<(PathBuf, String)> {
        let docs = fs::read_dir(workspace().join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let markdown = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let paths = markdown.chain(["README.md", "SECURITY.md"].map(|page| workspace().join(page)));
        paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    }

    /// The anchor that a heading gets: lower case, spaces as dashes, no punctuation.
    fn anchors(text: &str) -> Vec<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let plain = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
        plain.map(|line| line.replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "")).collect()
    }

    #[test]
    fn links_between_pages_lead_somewhere() {
        let mut broken = Vec::new();
        for (page, text) in pages() {
            let targets =
                text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
            for link in targets.filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
                let found = if anchor.is_empty() {
                    target.exists()
                } else {
                    fs::read_to_string(&target)
                        .is_ok_and(|text| anchors(&text).iter().any(|name| name == anchor))
                };
                if !found {
                    broken.push(format!("{}: {link}", page.display()));
                }
            }
        }
        assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
    }

    #[test]
    fn every_annotation_is_described() {
        let source = fs::read_to_string(workspace().join("crates/kubernetes/src/annotations.rs")).unwrap();
        let text = fs::read_to_string(workspace().join("docs/annotations.md")).unwrap();
        let names = source.split("\"kilo.squat.ai/").skip(1).filter_map(|rest| rest.split_once('"'));
        let names: Vec<_> = names.map(|(name, _)| name).filter(|name| !name.is_empty()).collect();
        assert!(names.len() >= 16, "too few annotations found in the source: {names:?}");
        let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("| `{name}` |"))).collect();
        assert!(missing.is_empty(), "docs/annotations.md lacks {missing:?}");
    }

    /// The text of all Rust files below a directory.
    fn sources(directory: &std::path::Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, text);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(entry).unwrap());
            }
        }
    }

    /// What is said of security is said with the test that holds it.
    #[test]
    fn every_test_that_is_named_exists() {
        let mut code = String::new();
        sources(&workspace().join("crates"), &mut code);
        sources(&workspace().join("xtask"), &mut code);
        let page = fs::read_to_string(workspace().join("docs/security.md")).unwrap();
        let named = page.split('`').skip(1).step_by(2);
        let named: Vec<_> = named.filter(|name| name.contains('_') && !name.contains('/')).collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named {
            let name = name.rsplit("::").next().unwrap();
            assert!(
                code.contains(&format!("fn {name}(")),
                "docs/security.md names {name:?}, which is no test"
            );
        }
    }
}
