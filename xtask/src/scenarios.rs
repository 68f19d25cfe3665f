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
    #[expect(dead_code, reason = "the scenarios that start the project's binaries follow")]
    Command(&'static [&'static str]),
    /// All integration tests of a package.
    #[expect(dead_code, reason = "the packages with namespace tests follow")]
    Tests(&'static str),
}

/// All scenarios, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "self-check",
    shows: "the kernel carries WireGuard, IPIP, VXLAN, bridges, tun, both families and nftables",
    run: Run::Script(include_str!("../guest/self-check.sh")),
    binaries: &[],
    tools: &[],
    environment: &[],
    memory: "1G",
    minutes: 3,
}];
