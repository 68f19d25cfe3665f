//! Who sends a request, and what is denied to whom. Everything is allowed to everyone until a rule denies it.

use std::collections::BTreeMap;

use crate::resource::Kind;
use crate::status::{Refused, Status};

/// The user of a request without credentials.
const ANONYMOUS: &str = "system:anonymous";

/// A rule that answers requests with 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deny {
    /// The user it holds for; `None` for all.
    pub user: Option<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or `*`.
    pub verb: String,
    /// `nodes`, `peers.kilo.squat.ai`, `nodes/status`, or `*`.
    pub resource: String,
}

impl Deny {
    /// Denies `verb` on `resource` to everyone; `*` stands for any.
    pub fn new(verb: &str, resource: &str) -> Deny {
        Deny { user: None, verb: verb.to_owned(), resource: resource.to_owned() }
    }

    /// Restricts the rule to one user.
    #[must_use]
    pub fn for_user(mut self, user: &str) -> Deny {
        self.user = Some(user.to_owned());
        self
    }
}

/// What a request wants to do.
pub(crate) struct Attempt<'a> {
    pub(crate) user: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) kind: &'a Kind,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The tokens and rules of a server.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) tokens: BTreeMap<String, String>,
    pub(crate) denied: Vec<Deny>,
}

impl Access {
    /// The user behind an `Authorization` header. While no token is registered, every token is good.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Result<String, Status> {
        let Some(token) = authorization.and_then(|header| header.strip_prefix("Bearer ")) else {
            return Ok(ANONYMOUS.to_owned());
        };
        match self.tokens.get(token.trim()) {
            Some(user) => Ok(user.clone()),
            None if self.tokens.is_empty() => Ok("system:admin".to_owned()),
            None => Err(Status::unauthorized()),
        }
    }

    /// A 403 if a rule denies the attempt.
    pub(crate) fn check(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        let qualified = attempt.kind.qualified();
        let resource = if attempt.subresource.is_empty() {
            attempt.kind.plural.clone()
        } else {
            format!("{}/{}", attempt.kind.plural, attempt.subresource)
        };
        let denied = self.denied.iter().any(|rule| {
            rule.user.as_deref().is_none_or(|user| user == attempt.user)
                && (rule.verb == "*" || rule.verb == attempt.verb)
                && (rule.resource == "*"
                    || rule.resource == resource
                    || (attempt.subresource.is_empty() && rule.resource == qualified))
        });
        if !denied {
            return Ok(());
        }
        Err(Status::forbidden(&Refused {
            user: attempt.user,
            verb: attempt.verb,
            group: &attempt.kind.group,
            resource: &resource,
            qualified: &qualified,
            namespace: attempt.namespace,
            name: attempt.name,
        }))
    }
}
