//! What is to be shown on a stock kernel, as a table. How it is run is decided in `test_kernel`.

/// One run in a virtual machine of its own.
pub struct Scenario {
    /// For the command line and the report.
    pub name: &'static str,
    /// What holds when it passes.
    pub shows: &'static str,
    /// What it runs.
    pub run: Run,
    /// Packages whose static binaries it starts; they lie in /usr/local/bin.
    pub binaries: &'static [&'static str],
    /// Programs of this machine that it starts, besides ip, nft, wg, ping and busybox.
    pub tools: &'static [&'static str],
    /// Additional environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// The machine's memory, in QEMU's notation.
    pub memory: &'static str,
    /// How long boot and run may take, in minutes; emulation is ten to thirty times slower than the hardware.
    pub minutes: u64,
}

/// What a scenario runs; it passes when this exits with 0.
pub enum Run {
    /// A shell script.
    Script(&'static str),
    /// A command: its name and its arguments.
    Command(&'static [&'static str]),
    /// Integration tests of a package.
    Tests(Tests),
}

/// Integration tests of a package.
pub struct Tests {
    /// The package.
    pub package: &'static str,
    /// The tests' names; the files in its directory `tests`.
    pub names: &'static [&'static str],
    /// Features of the package that they need.
    pub features: &'static [&'static str],
}

const KERNEL_TESTS: Tests = Tests {
    package: "dataplane",
    names: &["kernel_wireguard", "kernel_ipip", "vxlan", "routes", "firewall", "leftovers", "watch"],
    features: &["stock-kernel"],
};

const TUNNEL_TESTS: Tests = Tests { package: "tunnel", names: &["kernel"], features: &["stock-kernel"] };

const MESH_TESTS: Tests = Tests { package: "kilo-lab", names: &["mesh", "repair", "restart"], features: &[] };

const ADDON_TESTS: Tests = Tests { package: "kilo-lab", names: &["encapsulation", "addons"], features: &[] };

const TAKEOVER_TESTS: Tests =
    Tests { package: "kilo-lab", names: &["takeover"], features: &["stock-kernel"] };

const CLIENT_TESTS: Tests = Tests { package: "kilo-lab", names: &["connect"], features: &[] };

const PROGRAMS: &[&str] = &["kg", "kgctl", "kilo-lab"];

/// All scenarios, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "self-check",
        shows: "the kernel carries WireGuard, IPIP, VXLAN, bridges, tun, both families and nftables",
        run: Run::Script(include_str!("../guest/self-check.sh")),
        binaries: &[],
        tools: &[],
        environment: &[],
        memory: "1G",
        minutes: 3,
    },
    Scenario {
        name: "data-plane",
        shows: "links, routes, firewall and WireGuard of the kernel are observed, changed and watched",
        run: Run::Tests(KERNEL_TESTS),
        binaries: &[],
        tools: &[
            "iptables",
            "ip6tables",
            "iptables-save",
            "ip6tables-save",
            "iptables-legacy",
            "ip6tables-legacy",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
            "iptables-legacy-restore",
            "ip6tables-legacy-restore",
            "sysctl",
        ],
        environment: &[("RUST_TEST_THREADS", "1")],
        memory: "2G",
        minutes: 8,
    },
    Scenario {
        name: "tunnel",
        shows: "the embedded device and the kernel's WireGuard work together, over bad networks, too",
        run: Run::Tests(TUNNEL_TESTS),
        binaries: &[],
        tools: &["tc"],
        environment: &[("RUST_TEST_THREADS", "1")],
        memory: "1G",
        minutes: 8,
    },
    Scenario {
        name: "demo",
        shows: "the demonstration's mesh forms with kernel WireGuard and IPIP inside of locations, and survives",
        run: Run::Command(&[
            "kilo-lab",
            "demo",
            "--encapsulate=always",
            "--converge-within=180",
            "--take-over-within=240",
        ]),
        binaries: PROGRAMS,
        tools: &["twopi"],
        environment: &[],
        memory: "2G",
        minutes: 10,
    },
    Scenario {
        name: "mesh",
        shows: "both granularities, repairs, and restarts of agents that lose no packet",
        run: Run::Tests(MESH_TESTS),
        binaries: PROGRAMS,
        tools: &[],
        environment: &[("RUST_TEST_THREADS", "1"), ("KILO_LAB_PATIENCE", "4")],
        memory: "2G",
        minutes: 15,
    },
    Scenario {
        name: "addons",
        shows: "add-on to Flannel, Cilium and Calico, IPIP inside of Cilium's network and beside Calico's; VXLAN",
        run: Run::Tests(ADDON_TESTS),
        binaries: PROGRAMS,
        tools: &["bridge"],
        environment: &[("RUST_TEST_THREADS", "1"), ("KILO_LAB_PATIENCE", "4")],
        memory: "2G",
        minutes: 15,
    },
    Scenario {
        name: "takeover",
        shows: "what a Go agent leaves is taken over, with the kernel's WireGuard and IPIP, and no packet is lost",
        run: Run::Tests(TAKEOVER_TESTS),
        binaries: PROGRAMS,
        tools: &[
            "iptables",
            "iptables-save",
            "iptables-restore",
            "ip6tables",
            "ip6tables-save",
            "ip6tables-restore",
            "sysctl",
        ],
        environment: &[("RUST_TEST_THREADS", "1"), ("KILO_LAB_PATIENCE", "4")],
        memory: "2G",
        minutes: 15,
    },
    Scenario {
        name: "connect",
        shows: "kgctl connect with the kernel's WireGuard, for a while and once",
        run: Run::Tests(CLIENT_TESTS),
        binaries: PROGRAMS,
        tools: &["setpriv"],
        environment: &[("RUST_TEST_THREADS", "1"), ("KILO_LAB_PATIENCE", "4")],
        memory: "2G",
        minutes: 15,
    },
];
