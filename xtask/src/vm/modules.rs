//! Which kernel modules go along, and what they depend on.
//!
//! The virtual machine gets the modules that match [`MODULES`], everything they depend on, and the indices with
//! which modprobe finds them: as on an installed Debian, the kernel itself asks for a module when it is first
//! needed. This module works on the text of the indices (modules.dep(5)) and opens no files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// What networking of containers, overlays and firewalls may ask for. `*` matches any characters.
pub const MODULES: &[&str] = &[
    // Links.
    "wireguard",
    "ipip",
    "sit",
    "ip6_tunnel",
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "dummy",
    "tun",
    "macvlan",
    "vrf",
    // nftables, and iptables in both flavours.
    "nf_*",
    "nft_*",
    "nfnetlink*",
    "x_tables",
    "xt_*",
    "ip_tables",
    "iptable_*",
    "ipt_*",
    "ip6_tables",
    "ip6table_*",
    "ip6t_*",
    "ip_set*",
    // Impaired links, socket listings, checksums of nf_tables.
    "sch_netem",
    "sch_tbf",
    "sch_ingress",
    "*_diag",
    "crc32c*",
];

/// The module indices of one kernel.
pub struct Index {
    /// Path → paths of all modules it depends on; paths are relative to the modules' directory.
    dependencies: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

impl Index {
    /// Reads `modules.dep` and `modules.builtin`.
    pub fn parse(dependencies: &str, built_in: &str) -> Self {
        let parse_line = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            Some((path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        };
        Self {
            dependencies: dependencies.lines().filter_map(parse_line).collect(),
            built_in: built_in.lines().map(module_name).collect(),
        }
    }

    /// The paths of all modules that match a pattern and of what these depend on. A pattern that matches neither a
    /// module nor something built in is an error: the kernel lacks what somebody counts on.
    pub fn select<'a>(&self, patterns: impl IntoIterator<Item = &'a str>) -> Result<BTreeSet<String>> {
        let mut open = Vec::new();
        for pattern in patterns {
            let matching = |path: &&String| matches(pattern, &module_name(path));
            let found: Vec<_> = self.dependencies.keys().filter(matching).cloned().collect();
            if found.is_empty() && !self.built_in.iter().any(|name| matches(pattern, name)) {
                bail!("the kernel has no module {pattern}, neither loadable nor built in");
            }
            open.extend(found);
        }
        let mut selected = BTreeSet::new();
        while let Some(path) = open.pop() {
            let Some(needs) = self.dependencies.get(&path) else {
                bail!(
                    "modules.dep names the module {path} as a dependency but does not list it; delete target/vm"
                );
            };
            if selected.insert(path) {
                open.extend(needs.iter().cloned());
            }
        }
        Ok(selected)
    }

    /// `modules.dep` for the selected modules alone.
    pub fn dependencies_of(&self, selected: &BTreeSet<String>) -> String {
        let line = |path: &String| Some(format!("{path}: {}\n", self.dependencies.get(path)?.join(" ")));
        selected.iter().filter_map(line).collect()
    }
}

/// `modules.alias` for the selected modules alone.
pub fn aliases_of(aliases: &str, selected: &BTreeSet<String>) -> String {
    let names: BTreeSet<_> = selected.iter().map(|path| module_name(path)).collect();
    let wanted =
        |line: &&str| line.rsplit(' ').next().is_some_and(|target| names.contains(&module_name(target)));
    aliases.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// `kernel/net/ipv4/udp-tunnel.ko.xz` is the module `udp_tunnel`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.replace('-', "_") == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
        kernel/net/ipv4/ipip.ko: kernel/net/ipv4/tunnel4.ko kernel/net/ipv4/ip_tunnel.ko\n\
        kernel/net/ipv4/tunnel4.ko:\n\
        kernel/net/ipv4/ip_tunnel.ko:\n\
        kernel/net/netfilter/nft_masq.ko: kernel/net/netfilter/nf_tables.ko\n\
        kernel/net/netfilter/nf_tables.ko: kernel/lib/libcrc32c.ko\n\
        kernel/lib/libcrc32c.ko:\n\
        kernel/crypto/chacha-x86_64.ko:\n\
        kernel/broken.ko: kernel/absent.ko\n";

    fn select(patterns: &[&str]) -> Result<String> {
        let index = Index::parse(DEPENDENCIES, "kernel/net/ipv6/ipv6.ko\n");
        let selected = index.select(patterns.iter().copied())?;
        Ok(selected.iter().map(|path| module_name(path)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn dependencies_come_along() {
        assert_eq!(select(&["ipip"]).unwrap(), "ip_tunnel ipip tunnel4");
        // Also those that modules.dep lists only for the dependency itself.
        assert_eq!(select(&["nft_*"]).unwrap(), "libcrc32c nf_tables nft_masq");
        assert_eq!(select(&["chacha_x86_64"]).unwrap(), "chacha_x86_64");
        assert_eq!(select(&["chacha-x86_64"]).unwrap(), "chacha_x86_64");
    }

    #[test]
    fn a_module_that_is_nowhere_is_an_error() {
        assert_eq!(select(&["ipv6"]).unwrap(), "");
        let error = select(&["wireguard"]).unwrap_err().to_string();
        assert!(error.contains("wireguard"), "{error}");
        assert!(select(&["xt_*"]).is_err());
        assert!(select(&["broken"]).unwrap_err().to_string().contains("kernel/absent.ko"));
    }

    #[test]
    fn indices_shrink_to_the_selection() {
        let index = Index::parse(DEPENDENCIES, "");
        let selected = index.select(["chacha-x86_64", "nf_tables"]).unwrap();
        assert_eq!(
            index.dependencies_of(&selected),
            "kernel/crypto/chacha-x86_64.ko: \nkernel/lib/libcrc32c.ko: \n\
             kernel/net/netfilter/nf_tables.ko: kernel/lib/libcrc32c.ko\n"
        );
        let aliases = "# Aliases\nalias rtnl-link-ipip ipip\nalias crypto-chacha20 chacha_x86_64\n\
                       alias nfnetlink-subsys-10 nf_tables\n";
        assert_eq!(
            aliases_of(aliases, &selected),
            "alias crypto-chacha20 chacha_x86_64\nalias nfnetlink-subsys-10 nf_tables\n"
        );
    }

    #[test]
    fn a_star_matches_the_rest() {
        assert!(matches("*_diag", "tcp_diag"));
        assert!(matches("nf_*", "nf_nat"));
        assert!(matches("crc32c*", "crc32c"));
        assert!(!matches("nf_*", "nft_nat"));
        assert!(!matches("ab*bc", "abc"));
    }
}
