//! What the command line takes, as Go's programs take it, and what is said of a wrong value of any flag.

use program::flags::all;

use super::*;

fn read(text: &str) -> Result<Cli, clap::Error> {
    Cli::read_from(std::iter::once("kg").chain(text.split_whitespace()))
}

fn agent(text: &str) -> Agent {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}")).agent
}

fn refused(text: &str) -> String {
    match read(text) {
        Ok(_) => panic!("{text:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_reference_page_says_what_help_says() {
    let page = program::reference::markdown(Cli::command());
    assert!(page == include_str!("../../../../docs/kg.md"), "docs/kg.md is out of date: run make docs");
}

#[test]
fn boolean_flags_take_a_value_after_the_equals_sign() {
    let flags = agent("--local=false --clean-up-interface --cni=0 --iptables-forward-rules=T");
    assert!(!flags.local && flags.clean_up_interface && !flags.cni && flags.iptables_forward_rules);
    assert!(flags.clean_up);
    // As in Go this is the flag, and then a command of this name.
    assert!(refused("--local false").contains("'false'"));
}

#[test]
fn lists_add_up_and_other_flags_override() {
    let flags = agent(
        "--service-cidr 10.1.0.0/16 --internal-cidr=10.3.0.0/16,fd03::/64 --service-cidr=fd01::/64,10.2.0.0/16 \
         --service-cidr= --port 1 --port=2 --local --local=false --mtu 1300 --mtu auto",
    );
    let text = |ranges: &[Cidrs]| all(ranges).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(text(&flags.service_cidr), "10.1.0.0/16 fd01::/64 10.2.0.0/16");
    assert_eq!(text(&flags.internal_cidr), "10.3.0.0/16 fd03::/64");
    assert_eq!((flags.port, flags.local, flags.mtu), (2, false, Mtu::Auto));
}

/// A manifest whose variable is empty gives `--kubeconfig=`.
#[test]
fn an_empty_value_is_none() {
    let flags =
        agent("--kubeconfig= --master= --hostname= --service-cidr= --internal-cidr= --compatibility=");
    assert!(all(&flags.service_cidr).is_empty() && all(&flags.internal_cidr).is_empty());
    let access = kubernetes::ApiAccess::from_flags(flags.kubeconfig, flags.master, "kg");
    assert_eq!(access.credentials, kubernetes::client::Credentials::ServiceAccount);
}

#[test]
fn log_flags_are_taken_before_and_after_a_command() {
    let webhook = "webhook --cert-file a --key-file b";
    for text in [format!("--log-level=debug {webhook}"), format!("{webhook} --log-level debug")] {
        assert_eq!(agent(&text).log_level, log::Level::Debug, "{text}");
    }
    assert!(refused(&format!("--local=false {webhook}")).contains("--local is for running the agent"));
}

#[test]
fn listens_on_both_families() {
    assert_eq!(listen_address(":1107"), Ok("[::]:1107".parse().unwrap()));
    assert_eq!(listen_address("127.0.0.1:80"), Ok("127.0.0.1:80".parse().unwrap()));
    assert!(listen_address("localhost:80").is_ok_and(|address| address.ip().is_loopback()));
    for text in ["1107", "", "localhost", ":x", ":65536", "300.1.1.1:80"] {
        assert!(listen_address(text).is_err(), "{text:?} was accepted");
    }
}

/// Flags whose value may be any text: that one is wrong shows when it is used, see the lab's tests of flags.
const FREE: [&str; 15] = [
    "cni-path",
    "hostname",
    "kubeconfig",
    "master",
    "state-dir",
    "topology-label", // of the agent
    "cert-file",
    "key-file", // of the webhook
    "bin-dir",
    "conf-dir",
    "conf-name",
    "network-config",
    "plugins-dir", // of install-cni
    "help",
    "version",
];

/// A wrong value of every other flag, and what is allowed instead.
const WRONG: &[(&str, &str, &str)] = &[
    ("backend", "etcd", "kubernetes"),
    ("allow-host-routes", "10.1.0.0", "10.43.0.0/16"),
    ("clean-up", "maybe", "true or false"),
    ("clean-up-interface", "maybe", "true or false"),
    ("cni", "maybe", "true or false"),
    ("compatibility", "weave", "flannel, cilium, calico"),
    ("create-interface", "maybe", "true or false"),
    ("dry-run", "maybe", "true or false"),
    ("encapsulate", "sometimes", "never, crosssubnet, always"),
    ("encapsulation-type", "gre", "ipip, vxlan"),
    ("interface", "much-too-long-a-name", "1 to 15 bytes"),
    ("internal-cidr", "10.0.0.1", "10.43.0.0/16"),
    ("iptables-forward-rules", "maybe", "true or false"),
    ("listen", "1107", "ADDRESS:PORT or :PORT"),
    ("listen-metrics", "1107", "ADDRESS:PORT or :PORT"),
    ("liveness-timeout", "60", "30s"),
    ("local", "maybe", "true or false"),
    ("log-format", "xml", "text, json"),
    ("log-level", "loud", "all, debug, info, warn, error, none"),
    ("mark-bits", "0x30", "three neighbouring bits"),
    ("mesh-granularity", "auto", "\"location\" or \"full\""),
    ("mtu", "9", "from 576 to 65535"),
    ("pod-cidr-source", "kubelet", "node, cilium, calico, annotation"),
    ("port", "0", "from 1 to 65535"),
    ("prioritise-private-addresses", "maybe", "true or false"),
    ("resync-period", "0s", "30s"),
    ("service-cidr", "10.43.0.0/33", "10.43.0.0/16"),
    ("subnet", "10.4.0.0", "10.4.0.0/16"),
    ("wireguard", "rust", "auto, kernel, embedded"),
];

#[test]
fn a_wrong_value_of_any_flag_names_the_flag_the_value_and_what_is_allowed() {
    let check = |command: &clap::Command, words: &str| {
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
    };
    let command = Cli::command();
    check(&command, "");
    for (name, words) in [
        ("webhook", "webhook --cert-file a --key-file b"),
        ("install-cni", "install-cni --network-config {}"),
    ] {
        check(command.find_subcommand(name).unwrap(), words);
    }
    assert!(
        refused("--ports=1").contains("--port"),
        "a flag that does not exist is told, with a similar one"
    );
    let said = refused("completion csh");
    assert!(said.contains("csh") && said.contains("bash"), "{said}");
}
