//! Keeps the pod subnets of this node in the CNI configuration list.
//!
//! Only `ipam.ranges` (or `ipam.subnet`) of plugins with `host-local` address management is touched. A file that is
//! missing, is not JSON or has no such plugin is left as it is, and says so.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

/// Writes the subnets into the list at `path`. Returns whether the file changed; `None`: there is none.
pub fn set_subnets(path: &Path, subnets: &[IpNet]) -> Result<Option<bool>> {
    let text = match files::read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut list: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not JSON and is left untouched", path.display()))?;
    let ranges = Value::Array(subnets.iter().map(|subnet| json!([{ "subnet": subnet.trunc() }])).collect());
    let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) else {
        bail!("{} has no list \"plugins\" and is left untouched", path.display());
    };
    let mut found = false;
    let mut changed = false;
    for ipam in plugins.iter_mut().filter_map(|plugin| plugin.get_mut("ipam")?.as_object_mut()) {
        if ipam.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "host-local") {
            continue;
        }
        found = true;
        changed |= ipam.remove("subnet").is_some();
        if ipam.get("ranges") != Some(&ranges) {
            ipam.insert("ranges".to_owned(), ranges.clone());
            changed = true;
        }
    }
    if !found {
        bail!("{} has no plugin with host-local address management and is left untouched", path.display());
    }
    if changed {
        let text = format!("{}\n", serde_json::to_string_pretty(&list)?);
        files::replace(path, text.as_bytes(), mode(path).unwrap_or(0o644))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Some(changed))
}

/// The ranges of the first plugin with `host-local` address management in the list at `path`, if there are any.
pub fn ranges(path: &Path) -> Option<Value> {
    let list: Value = serde_json::from_str(&files::read_text(path).ok()?).ok()?;
    let mut plugins = list.get("plugins")?.as_array()?.iter();
    plugins.find_map(|plugin| plugin.pointer("/ipam/ranges").filter(|_| is_host_local(plugin)).cloned())
}

/// Sets the ranges of all plugins with `host-local` address management that have none.
pub fn set_missing_ranges(list: &mut Value, ranges: &Value) {
    for plugin in list.get_mut("plugins").and_then(Value::as_array_mut).into_iter().flatten() {
        if !is_host_local(plugin) {
            continue;
        }
        let ipam = plugin.get_mut("ipam").and_then(Value::as_object_mut);
        if let Some(ipam) = ipam.filter(|ipam| !ipam.contains_key("ranges") && !ipam.contains_key("subnet")) {
            ipam.insert("ranges".to_owned(), ranges.clone());
        }
    }
}

fn is_host_local(plugin: &Value) -> bool {
    plugin.pointer("/ipam/type").and_then(Value::as_str) == Some("host-local")
}

/// The permissions of a file, if there is one.
pub fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("10-kilo.conflist");
        fs::write(&path, before).unwrap();
        let subnets: Vec<IpNet> = ["10.42.1.0/24", "fd42:1::/64"].map(|text| text.parse().unwrap()).into();
        let outcome = match set_subnets(&path, &subnets) {
            Ok(changed) => format!("{changed:?}"),
            Err(error) => format!("{error:#}").replace(&path.display().to_string(), "FILE"),
        };
        let after = fs::read_to_string(&path).unwrap();
        let after = if after == before { "same".to_owned() } else { after.split_whitespace().collect() };
        assert_eq!(format!("{outcome} {after}"), expected);
    }

    #[test]
    fn ranges_are_set_and_nothing_else() {
        check(
            r#"{"name":"kilo","plugins":[{"type":"bridge","mtu":1420,"ipam":{"type":"host-local"}},{"type":"portmap"}]}"#,
            concat!(
                r#"Some(true) {"name":"kilo","plugins":[{"ipam":{"ranges":[[{"subnet":"10.42.1.0/24"}],"#,
                r#"[{"subnet":"fd42:1::/64"}]],"type":"host-local"},"mtu":1420,"type":"bridge"},{"type":"portmap"}]}"#
            ),
        );
        check(
            r#"{"plugins":[{"ipam":{"type":"host-local","ranges":[[{"subnet":"10.42.1.0/24"}],[{"subnet":"fd42:1::/64"}]]}}]}"#,
            "Some(false) same",
        );
    }

    #[test]
    fn what_is_not_understood_is_left_untouched() {
        check(
            "{",
            "FILE is not JSON and is left untouched: EOF while parsing an object at line 1 column 1 same",
        );
        check("{}", "FILE has no list \"plugins\" and is left untouched same");
        check(
            r#"{"plugins":[{"ipam":{"type":"dhcp"}}]}"#,
            "FILE has no plugin with host-local address management and is left untouched same",
        );
        assert_eq!(set_subnets(Path::new("/nonexistent/list"), &[]).unwrap(), None);
    }
}
