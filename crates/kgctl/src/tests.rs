//! What the command line takes, as the Go `kgctl` takes it, and what is said of a wrong value of any flag.

#![allow(clippy::unwrap_used, reason = "a test")]

use clap::error::ErrorKind;
use program::flags::all;

use super::*;

fn read(text: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("kgctl").chain(text.split_whitespace()))
}

fn refused(text: &str) -> String {
    match read(text) {
        Ok(_) => panic!("{text:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn show_conf(text: &str) -> (Global, ShowConf) {
    let cli = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let Command::Showconf(request) = cli.command else { panic!("{text} is something else") };
    (cli.global, request)
}

#[test]
fn the_reference_page_says_what_help_says() {
    let page = program::reference::markdown(Cli::command());
    assert!(page == include_str!("../../../docs/kgctl.md"), "docs/kgctl.md is out of date: run make docs");
}

#[test]
fn flags_are_taken_anywhere_and_in_every_form() {
    for text in [
        "--kubeconfig=k --port 1 showconf --as-peer -o yaml --allowed-ips 10.1.0.0/16,fd01::/64 node n --port=2",
        "showconf node n --as-peer=true -o=yaml --allowed-ips=10.1.0.0/16 --allowed-ips fd01::/64 --port 2 --kubeconfig k",
        "showconf --port 2 node --output=yaml --output yaml --as-peer=false --as-peer=T n --allowed-ips 10.1.0.0/16 \
         --allowed-ips= --allowed-ips fd01::/64 --kubeconfig x --kubeconfig k",
    ] {
        let (global, request) = show_conf(text);
        assert!(request.as_peer && request.output == Output::Yaml, "{text}");
        assert_eq!(all(&request.allowed_ips).len(), 2, "{text}");
        assert_eq!((global.port, global.kubeconfig), (2, Some("k".into())), "{text}");
    }
    assert_eq!(read("-v").err().unwrap().kind(), ErrorKind::DisplayVersion);
    assert!(read("connect -a 10.10.10.11/32 -i wg0 --clean-up=f --resync-period 1.5m laptop").is_ok());
    // A script whose variable is empty.
    let (global, _) = show_conf("showconf node n --kubeconfig= --allowed-ips=");
    assert_eq!(global.api_access().credentials, Credentials::UserKubeconfig);
}

/// Flags whose value may be any text: that one is wrong shows when it is used.
const FREE: [&str; 5] = ["help", "version", "kubeconfig", "private-key", "topology-label"];

/// A wrong value of every other flag, and what is allowed instead.
const WRONG: &[(&str, &str, &str)] = &[
    ("allow-host-routes", "10.1.0.0", "10.43.0.0/16"),
    ("allowed-ip", "home", "10.10.10.10/32"),
    ("allowed-ips", "10.43.0.0", "10.43.0.0/16"),
    ("as-peer", "maybe", "true or false"),
    ("backend", "etcd", "kubernetes"),
    ("clean-up", "maybe", "true or false"),
    ("interface", "much-too-long-a-name", "1 to 15 bytes"),
    ("liveness-timeout", "60", "30s"),
    ("log-level", "loud", "all, debug, info, warn, error, none"),
    ("mark-bits", "112", "three neighbouring bits"),
    ("mesh-granularity", "locations", "auto, location, full"),
    ("mtu", "70", "from 576 to 65535"),
    ("once", "maybe", "true or false"),
    ("output", "xml", "wireguard, json, yaml"),
    ("peers", "A_B", "all, none, or names"),
    ("persistent-keepalive", "-1", "from 0 to 65535"),
    ("pod-cidr-source", "kubelet", "auto, node, cilium, calico, annotation"),
    ("port", "65536", "from 1 to 65535"),
    ("resync-period", "0s", "30s"),
    ("service-cidr", "10.43.0.0", "10.43.0.0/16"),
];

#[test]
fn a_wrong_value_of_any_flag_names_the_flag_the_value_and_what_is_allowed() {
    let command = Cli::command();
    let below = |name: &str| command.find_subcommand(name).unwrap();
    for (command, words) in
        [(&command, "graph"), (below("showconf"), "showconf node n"), (below("connect"), "connect")]
    {
        for arg in command.get_arguments().filter_map(clap::Arg::get_long) {
            if FREE.contains(&arg) {
                continue;
            }
            let found = WRONG.iter().find(|(flag, ..)| *flag == arg);
            let (flag, value, allowed) = found.unwrap_or_else(|| panic!("--{arg} needs a wrong value here"));
            let said = refused(&format!("{words} --{flag}={value}"));
            for part in [&format!("--{flag}"), *value, allowed] {
                assert!(said.contains(part), "--{flag}={value}: {part:?} is not in {said}");
            }
        }
    }
    assert!(
        refused("graph --ports=1").contains("--port"),
        "a flag that does not exist is told, with a similar one"
    );
}
