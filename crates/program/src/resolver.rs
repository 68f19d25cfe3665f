//! Looks up the DNS names of endpoints.

mod files;
mod provider;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::future::join_all;
use hickory_resolver::{
    config::{LookupIpStrategy, ResolverConfig, ResolverOpts},
    lookup_ip::LookupIp,
    net::{DnsError, NetError},
    system_conf::read_system_conf,
};
use provider::Provider;
use tokio::time::{sleep, timeout};
use underlay::{State, Underlay};

/// A name that is not answered after this time counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long the name servers are asked over the underlay alone: as long as one question may take.
const HEAD_START: Duration = TIMEOUT.checked_div(2).expect("invariant: two is not zero");

/// The port of name servers.
const PORT: u16 = 53;

type Hickory = hickory_resolver::Resolver<Provider>;

/// A resolver with the host's configuration. It asks on the host's own routes first, and on those with the mesh when there
/// is no answer.
#[derive(Clone)]
pub struct Resolver {
    /// `None`: there are no marks, so there is one way to ask.
    marked: Option<Hickory>,
    plain: Hickory,
    /// Those that are asked.
    servers: Vec<IpAddr>,
    underlay: Underlay,
}

impl Resolver {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`.
    pub fn of_host(underlay: Underlay) -> Result<Self> {
        let (config, options) = read_system_conf().context("cannot read /etc/resolv.conf")?;
        Self::of(config, options, underlay).context("cannot set up the resolver")
    }

    fn of(config: ResolverConfig, mut options: ResolverOpts, underlay: Underlay) -> Result<Self, NetError> {
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = TIMEOUT / 2;
        options.attempts = 1;
        // The reconciler decides how long an answer is good for.
        options.cache_size = 0;
        let build = |provider| {
            let mut builder = Hickory::builder_with_config(config.clone(), provider);
            *builder.options_mut() = options.clone();
            builder.build()
        };
        Ok(Self {
            marked: underlay.measures().then(|| build(Provider::marked(underlay.clone()))).transpose()?,
            plain: build(Provider::plain())?,
            servers: config.name_servers().iter().map(|server| server.ip).collect(),
            underlay,
        })
    }

    /// The addresses of an endpoint's name, or why there are none. The name is taken for absolute: a search domain of
    /// the host must not decide where a tunnel goes.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let name = name.trim_end_matches('.');
        self.look_up(name, format!("{name}.")).await
    }

    /// The addresses of a host's own name; search domains count.
    pub async fn resolve_host(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.look_up(name, name.to_owned()).await
    }

    /// The name servers that the host depends on now. Where it asks a stub on the host itself, those behind it are among
    /// them.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        files::name_servers()
    }

    /// Finds out on which way each name server answers.
    pub async fn probe(&self) {
        self.probe_all(self.name_servers()).await;
    }

    async fn probe_all(&self, servers: Vec<IpAddr>) {
        let probe = |server| self.underlay.probe_name_server(SocketAddr::new(server, PORT));
        join_all(servers.into_iter().map(probe)).await;
    }

    /// What `/etc/hosts` says is all there is, as for the C library: otherwise a name without an IPv6 address there would
    /// wait for a name server that may not be there.
    async fn look_up(&self, written: &str, name: String) -> Result<Vec<IpAddr>, String> {
        let written = files::hosts_addresses(written);
        if !written.is_empty() {
            return Ok(written);
        }
        self.ask(name).await
    }

    async fn ask(&self, name: String) -> Result<Vec<IpAddr>, String> {
        match timeout(TIMEOUT, self.ask_both_ways(name)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }

    /// Asks over the underlay, and also on the routes with the mesh when there is no answer soon.
    async fn ask_both_ways(&self, name: String) -> Result<LookupIp, NetError> {
        let Some(marked) = &self.marked else { return self.plain.lookup_ip(name).await };
        let mut marked = Box::pin(marked.lookup_ip(name.clone()));
        let mut silent = false;
        tokio::select! {
            answer = &mut marked => {
                if is_answer(&answer) {
                    return answer;
                }
                silent = true;
            }
            () = sleep(self.head_start()) => {}
        }
        let mut plain = Box::pin(self.plain.lookup_ip(name));
        tokio::select! {
            biased;
            answer = &mut marked, if !silent => if is_answer(&answer) { answer } else { plain.await },
            answer = &mut plain => {
                if is_answer(&answer) {
                    self.look_closer();
                    return answer;
                }
                if silent {
                    return answer;
                }
                let late = marked.await;
                if is_answer(&late) { late } else { answer }
            }
        }
    }

    /// There is none where all name servers are known to be behind the mesh.
    fn head_start(&self) -> Duration {
        if self.is_behind_mesh() { Duration::ZERO } else { HEAD_START }
    }

    fn is_behind_mesh(&self) -> bool {
        self.servers.iter().all(|server| self.underlay.state(*server) == State::Mesh)
    }

    /// There was an answer only on the routes with the mesh. Which of the name servers are behind it, the answer does not
    /// say: some may not even have been asked.
    fn look_closer(&self) {
        if !self.is_behind_mesh() {
            let this = self.clone();
            tokio::spawn(async move { this.probe_all(this.servers.clone()).await });
        }
    }
}

/// Whether a name server has answered, be it that there is no such name.
fn is_answer(result: &Result<LookupIp, NetError>) -> bool {
    matches!(result, Ok(_) | Err(NetError::Dns(DnsError::NoRecordsFound(_) | DnsError::ResponseCode(_))))
}
