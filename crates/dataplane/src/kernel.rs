//! The sockets to the kernel, and which WireGuard they go with. Lives on one thread, which stays in the network
//! namespace in which it was started.

use hostnet::{LinkKind, LinkName};
use mesh::PrivateKey;

use crate::{
    error::Error,
    legacy::Legacy,
    netlink::{Protocol, Socket},
    nft::Nft,
    rtnl::link,
    wireguard::{self, WireguardBackend, WireguardChoice},
};

/// What a data plane is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The WireGuard interface.
    pub interface: LinkName,
    /// Who should run it.
    pub wireguard: WireguardChoice,
    /// Whether an embedded device answers `wg(8)` on `/var/run/wireguard/<interface>.sock`.
    pub serve_uapi: bool,
}

/// The sockets to the kernel.
pub struct Kernel {
    pub config: Config,
    pub route: Socket,
    /// Or why there is no nf_tables.
    pub nft: Result<Nft, String>,
    pub wireguard: Box<dyn WireguardBackend>,
    pub legacy: Legacy,
    /// The private key that was set last.
    pub known_key: Option<PrivateKey>,
}

impl Kernel {
    /// Opens the sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When a socket cannot be opened, or the WireGuard that was chosen is not there.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut route = open(Protocol::Route, "routes and interfaces")?;
        let wireguard = choose(&config, &mut route)?;
        let nft = open(Protocol::Netfilter, "nftables").map(Nft::new).map_err(|error| error.to_string());
        let nft = nft.and_then(|mut nft| match nft.observe() {
            Ok(_) => Ok(nft),
            Err(refusal) if matches!(refusal.errno(), libc::EINVAL | libc::EOPNOTSUPP) => {
                Err(format!("the kernel has no nf_tables ({refusal}): load the module nf_tables"))
            }
            // Tells itself when it is observed again.
            Err(_) => Ok(nft),
        });
        Ok(Self { config, route, nft, wireguard, legacy: Legacy::default(), known_key: None })
    }

    /// Whether we make and remove the WireGuard interface.
    pub fn manages_interface(&self) -> bool {
        self.config.wireguard != WireguardChoice::Existing
    }

    /// Whether interfaces of a kind can be made.
    ///
    /// # Errors
    /// When the kernel answers something else than yes or no.
    pub fn supports(&mut self, kind: LinkKind) -> Result<bool, Error> {
        match kind {
            LinkKind::Wireguard => Ok(true),
            LinkKind::Ipip | LinkKind::Sit | LinkKind::Vxlan => {
                link::is_known(&mut self.route, kind).map_err(Error::observing("the kinds of interfaces"))
            }
        }
    }

    /// The addresses of our sockets: what notices about our own changes carry.
    pub fn ports(&self) -> [u32; 2] {
        [self.route.port(), self.nft.as_ref().map_or(0, |nft| nft.socket.port())]
    }
}

fn open(protocol: Protocol, what: &'static str) -> Result<Socket, Error> {
    Socket::open(protocol).map_err(|source| Error::Socket { what, source })
}

fn choose(config: &Config, route: &mut Socket) -> Result<Box<dyn WireguardBackend>, Error> {
    let interface = &config.interface;
    let kernel = || wireguard::Kernel::open(interface);
    let embedded = || Box::new(wireguard::Embedded::new(interface, config.serve_uapi));
    Ok(match config.wireguard {
        WireguardChoice::Kernel => Box::new(kernel().map_err(Error::NoWireguard)?),
        WireguardChoice::Embedded => embedded(),
        WireguardChoice::Auto => match kernel() {
            Ok(kernel) => Box::new(kernel),
            Err(refusal) => {
                tracing::debug!(%refusal, "the kernel has no WireGuard");
                embedded()
            }
        },
        WireguardChoice::Existing => existing(interface, route)?,
    })
}

/// The backend for an interface that somebody else made.
fn existing(interface: &LinkName, route: &mut Socket) -> Result<Box<dyn WireguardBackend>, Error> {
    let link = link::find(route, interface)?.ok_or_else(|| Error::NoLink(interface.clone()))?;
    if link.kind == link::kind_name(LinkKind::Wireguard) {
        return Ok(Box::new(wireguard::Kernel::open(interface).map_err(Error::NoWireguard)?));
    }
    let mut external = wireguard::External::new(interface);
    match external.observe() {
        Ok(_) => Ok(Box::new(external)),
        Err(error) => Err(Error::NoControl { link: interface.clone(), reason: error.to_string() }),
    }
}
