//! Questions to a lab about reachability, and waiting for an answer. How a probe works is in
//! [`crate::probe`], and what connects the pods is none of its business.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Lab, LabError, NodeRef, interrupt,
    layout::Family,
    matrix::Matrix,
    probe::{Endpoint, Stream, probe_pairs},
};

/// How long one round of a matrix waits for the last answer.
const MATRIX_WITHIN: Duration = Duration::from_secs(1);
/// The same while waiting for a matrix to become complete: short, to see the moment.
const ROUND_WITHIN: Duration = Duration::from_millis(300);

impl Lab {
    /// Where a probe to a pod, or to a node's LAN address, begins and ends.
    ///
    /// # Errors
    /// [`LabError::UnknownMember`].
    pub fn endpoint(&self, name: &str, family: Family) -> Result<Endpoint, LabError> {
        let pod = self.layout.pod(name).map(|pod| (&pod.namespace, pod.address));
        let node = || self.layout.node(name).map(|node| (&node.namespace, node.lan));
        let (namespace, address) = pod.or_else(node).ok_or_else(|| self.unknown(name))?;
        let (namespace, address) = (namespace.clone(), address.of(family));
        Ok(Endpoint { name: name.into(), namespace, address, service: None })
    }

    /// Sends packets from one pod or node to another until the stream is stopped, and counts losses.
    ///
    /// # Errors
    /// When an endpoint is unknown or its namespace refuses a socket.
    pub fn stream(
        &self,
        from: &str,
        to: &str,
        family: Family,
        interval: Duration,
    ) -> Result<Stream, LabError> {
        Stream::start(&self.endpoint(from, family)?, &self.endpoint(to, family)?, interval)
    }

    /// The names of all pods.
    pub fn pods(&self) -> Vec<&str> {
        self.layout.pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    /// Which pods reach which.
    ///
    /// # Errors
    /// When a namespace refuses a socket.
    pub fn matrix(&self, family: Family) -> Result<Matrix, LabError> {
        self.matrix_of(&self.pods(), family, MATRIX_WITHIN)
    }

    /// Which of these pods and nodes reach which, each given that time to answer.
    ///
    /// # Errors
    /// When an endpoint is unknown or its namespace refuses a socket.
    pub fn matrix_of(&self, names: &[&str], family: Family, within: Duration) -> Result<Matrix, LabError> {
        let endpoints =
            names.iter().map(|name| self.endpoint(name, family)).collect::<Result<Vec<_>, _>>()?;
        let cells = probe_pairs(&endpoints, within)?;
        Ok(Matrix { family, names: names.iter().map(ToString::to_string).collect(), cells })
    }

    /// Waits until all pods reach each other in the families of [`crate::Spec::families`], and says how long that took.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the pairs that do not, and what the agents say about their health.
    pub fn wait_converged(&self, within: Duration) -> Result<Duration, LabError> {
        self.wait_reachable(&self.pods(), within, |_| {})
    }

    /// Waits until these pods and nodes reach each other in all families, and shows each round's matrices.
    ///
    /// # Errors
    /// As [`Self::wait_converged`].
    pub fn wait_reachable(
        &self,
        names: &[&str],
        within: Duration,
        mut progress: impl FnMut(&[Matrix]),
    ) -> Result<Duration, LabError> {
        let begin = Instant::now();
        loop {
            let matrix = |family: &Family| self.matrix_of(names, *family, ROUND_WITHIN);
            let matrices = self.spec.families().iter().map(matrix).collect::<Result<Vec<_>, _>>()?;
            progress(&matrices);
            let failures: Vec<String> = matrices
                .iter()
                .flat_map(|matrix| {
                    matrix.failures().into_iter().map(|pair| format!("{} {pair}", matrix.family))
                })
                .collect();
            if failures.is_empty() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > within {
                let seen = format!("{}; agents: {}", failures.join(", "), self.health().join("; "));
                return Err(LabError::Deadline { what: "full reachability".into(), within, seen });
            }
            interrupt::check()?;
        }
    }

    /// What every agent says about its health, as `node: status body`.
    pub fn health(&self) -> Vec<String> {
        let ask = |node: NodeRef<'_>| match (node.agent(), node.http_get("/health")) {
            (None, _) => format!("{}: not running", node.node.name),
            (_, Ok(answer)) => {
                format!("{}: {} {}", node.node.name, answer.status, answer.body.trim().replace('\n', ", "))
            }
            (_, Err(error)) => format!("{}: {error}", node.node.name),
        };
        self.nodes().map(ask).collect()
    }
}

/// Waits until `look` sees nothing left to wait for; what it sees else is told when the time is over.
///
/// # Errors
/// [`LabError::Deadline`], an error of `look`, or an interruption.
pub fn wait_until(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Option<String>, LabError>,
) -> Result<(), LabError> {
    let begin = Instant::now();
    while let Some(seen) = look()? {
        if begin.elapsed() > within {
            return Err(LabError::Deadline { what: what.into(), within, seen });
        }
        interrupt::check()?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
