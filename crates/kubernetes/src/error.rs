//! Why something with the Kubernetes API did not work, in words that say what to do.

use std::{path::PathBuf, time::Duration};

use crate::{
    explain::{Explanation, REFUSED},
    preshared_keys::NAMESPACE,
};

/// What was attempted and why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kubeconfig file that cannot be used.
    #[error("cannot use the kubeconfig {}: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The user's own kubeconfig (`$KUBECONFIG` or `~/.kube/config`) cannot be used.
    #[error("cannot use the kubeconfig of $KUBECONFIG or ~/.kube/config: {0}")]
    UserKubeconfig(String),
    /// Neither a kubeconfig nor a service account.
    #[error("this is no pod of a cluster ({0}); give --kubeconfig FILE or --master URL")]
    NotInCluster(String),
    /// The address of the API makes no sense.
    #[error(
        "{url:?} is no address of a Kubernetes API ({why}); write something like --master=https://192.0.2.1:6443"
    )]
    Address {
        /// The address.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The credentials or certificates cannot be used.
    #[error("cannot prepare the connection to the Kubernetes API at {url}: {why}")]
    Client {
        /// The address of the API.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A request that is no AdmissionReview, or one that cannot be answered.
    #[error("the request is no AdmissionReview that can be answered: {0}")]
    Review(String),
    /// The agents take pod subnets from somewhere that is not known here.
    #[error(
        "the annotation kilo.squat.ai/pod-cidr-source of node {node} cannot be used: {why}; use a program of the same \
         version as the agents, or give --pod-cidr-source"
    )]
    PodCidrSource {
        /// The name of the Node.
        node: String,
        /// What is wrong.
        why: String,
    },
    /// A Secret that holds no preshared key. Nothing of its content is shown.
    #[error("the Secret {name} in the namespace {NAMESPACE} cannot be used: {why}")]
    PresharedKey {
        /// The name of the Secret.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The API did not do what it was asked for.
    #[error("cannot {verb} {object}: {}", explanation.message)]
    Request {
        /// What was asked for, in the words of the API: `list`, `patch`, …
        verb: &'static str,
        /// Of which object or resource.
        object: String,
        /// Why not.
        explanation: Explanation,
    },
}

impl Error {
    /// Whether the object, or the whole resource, does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Request { explanation, .. } if explanation.is_missing())
    }

    /// What the API said when it refused a request by its content, as policies and webhooks do. That it gives nobody leave
    /// to make such requests is another matter.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Error::Request { explanation, .. } if explanation.reason == REFUSED => Some(&explanation.message),
            _ => None,
        }
    }

    /// How long the API asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Request { explanation, .. } => explanation.retry_after,
            _ => None,
        }
    }

    /// Whether the API answers, but what was asked for does not exist or is not for us.
    pub(crate) fn is_withheld(&self) -> bool {
        let forbidden =
            matches!(self, Error::Request { explanation, .. } if explanation.reason == "Forbidden");
        forbidden || self.is_missing()
    }
}
