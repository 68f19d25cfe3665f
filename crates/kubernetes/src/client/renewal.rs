//! Keeps a client's credentials as its files have them. Whoever has a client of this keeps it; beneath, what is new is
//! taken up.
//!
//! Files are looked at before a request, though not twice in a second, and from time to time, because a watch asks for
//! nothing for minutes. Another token or another user goes with the next request. Whatever connections depend on, such as a
//! client certificate, makes new ones: no request goes over the old, and watches on them end, so that they are resumed
//! over the new. Requests that wait for their answer get it. As long as what is new cannot be used, for example because a
//! certificate is there and its key is not yet, everything stays as it was.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use tokio::sync::{Mutex, oneshot};
use tower::{BoxError, Service};
use underlay::Underlay;

use super::{
    ApiAccess,
    files::{FileIdentity, aside, identities, is_special},
    generation::{Generation, repeatable},
    plugin::{self, Credential},
    settings::Settings,
    stack::AnswerBody,
    status::Note,
};
use crate::{Error, explain::chain};

/// Files are not looked at again sooner.
const LOOK: Duration = Duration::from_secs(1);
/// Files are looked at as often without a request.
const WATCH: Duration = Duration::from_secs(10);
/// How long requests wait for files that are looked at; those of a network filesystem may never come.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was read, and what the files were right before, if they are known for certain.
type Found = (Settings, Option<Vec<FileIdentity>>);

/// A service whose credentials are renewed.
#[derive(Clone)]
pub(super) struct Renewing(Arc<Shared>);

/// Credentials that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoCredentials(String);

/// An error of a request, and what may be behind it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Noted(String);

struct Shared {
    access: ApiAccess,
    underlay: Underlay,
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    /// Whether files are looked at.
    followed: bool,
    credential: Option<Credential>,
    generation: Arc<Generation>,
    /// When files were looked at, and what they were when they were read. `None`: they may have changed since.
    looked: Instant,
    seen: Option<Vec<FileIdentity>>,
    /// A look that goes on. `None` of it: nothing has changed.
    looking: Option<oneshot::Receiver<Result<Option<Found>, String>>>,
    /// Why what the files hold now is not used.
    unusable: Option<String>,
}

impl Renewing {
    /// Reads all that the access names.
    ///
    /// # Errors
    /// When something is missing or makes no sense.
    pub async fn new(access: &ApiAccess, underlay: &Underlay) -> Result<Self, Error> {
        let settings = settings(access, Settings::of).await?;
        let wrong = |why| Error::Client { url: settings.transport.server.to_string(), why };
        let generation = Generation::new(&settings, None, underlay, None).map_err(wrong)?;
        // What comes out of a pipe, as of `--kubeconfig <(…)`, comes once.
        let followed = !settings.files.is_empty() && !settings.files.iter().any(|path| is_special(path));
        let state = State {
            settings,
            followed,
            credential: None,
            generation: Arc::new(generation),
            looked: Instant::now(),
            seen: None,
            looking: None,
            unusable: None,
        };
        let (access, underlay, state) = (access.clone(), underlay.clone(), Mutex::new(state));
        let shared = Arc::new(Shared { access, underlay, state });
        if followed {
            tokio::spawn(follow(Arc::downgrade(&shared)));
        }
        Ok(Self(shared))
    }

    /// The namespace of requests that name none.
    pub async fn namespace(&self) -> String {
        self.0.state.lock().await.settings.namespace.clone()
    }
}

impl Service<Request<Body>> for Renewing {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.send(request).await })
    }
}

async fn follow(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.state.lock().await.look(&shared).await;
    }
}

impl Shared {
    async fn send(self: Arc<Self>, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        let again = repeatable(&request);
        let generation = self.clone().current().await.map_err(NoCredentials)?;
        let answer = generation.send(request).await;
        if !is_refused(&answer) {
            return answer;
        }
        // What was right a moment ago may have been exchanged.
        let newer = self.refused(&generation, answer.is_ok()).await;
        let answer = match again.zip(newer) {
            Some((request, newer)) => newer.send(request).await,
            None => answer,
        };
        if !is_refused(&answer) {
            return answer;
        }
        let note = self.state.lock().await.note();
        match (answer, note) {
            (answer, None) => answer,
            (Ok(mut answer), Some(note)) => {
                answer.extensions_mut().insert(Note(note));
                Ok(answer)
            }
            (Err(error), Some(note)) => Err(Noted(format!("{}; {note}", chain(&*error))).into()),
        }
    }

    /// What the next request is to go with.
    async fn current(self: Arc<Self>) -> Result<Arc<Generation>, String> {
        let mut state = self.state.lock().await;
        if state.looked.elapsed() >= LOOK {
            state.look(&self).await;
        }
        if !state.wants_credential() {
            return Ok(state.generation.clone());
        }
        drop(state);
        // Whoever asks may lose patience while somebody types a password.
        let asked = tokio::spawn(async move {
            let mut state = self.state.lock().await;
            state.ask(&self.underlay).await?;
            Ok(state.generation.clone())
        });
        asked.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Looks at the files again, because the API, or the way there, refuses what requests go with. Gives what they go with
    /// from now on, if that is something else.
    async fn refused(&self, generation: &Arc<Generation>, by_api: bool) -> Option<Arc<Generation>> {
        let mut state = self.state.lock().await;
        if by_api && Arc::ptr_eq(&state.generation, generation) {
            // The next request asks the plugin, as client-go does.
            state.credential = None;
        }
        state.look(self).await;
        (!Arc::ptr_eq(&state.generation, generation)).then(|| state.generation.clone())
    }
}

impl State {
    /// Takes up what has changed in files.
    async fn look(&mut self, shared: &Shared) {
        if !self.followed {
            return;
        }
        self.looked = Instant::now();
        // One that nobody has waited for to its end goes on.
        let patience = if self.looking.is_some() { Duration::ZERO } else { PATIENCE };
        let looking = self.looking.get_or_insert_with(|| {
            let (access, files) = (shared.access.clone(), self.settings.files.clone());
            let seen = self.seen.clone().filter(|_| self.unusable.is_none());
            aside(move || read_again(&access, &files, seen.as_ref()))
        });
        let Ok(found) = tokio::time::timeout(patience, looking).await else {
            return self
                .refuse("reading it takes long; is it on a network filesystem that is down?".to_owned());
        };
        self.looking = None;
        match found.map_err(|error| error.to_string()).flatten() {
            Ok(None) => self.unusable = None,
            Ok(Some((settings, seen))) => {
                if let Err(why) = self.replace(settings, seen, &shared.underlay) {
                    self.refuse(why);
                }
            }
            Err(why) => self.refuse(why),
        }
    }

    fn replace(
        &mut self,
        settings: Settings,
        seen: Option<Vec<FileIdentity>>,
        underlay: &Underlay,
    ) -> Result<(), String> {
        let same = settings.plugin == self.settings.plugin;
        let credential = self.credential.as_ref().filter(|_| same);
        let generation = Generation::new(&settings, credential, underlay, Some(&self.generation))?;
        if !same {
            self.credential = None;
        }
        self.settings = settings;
        self.seen = seen;
        self.unusable = None;
        self.take_up(generation);
        Ok(())
    }

    fn refuse(&mut self, why: String) {
        if self.unusable.as_ref() != Some(&why) {
            tracing::warn!("the credentials have changed and are used as they were: {why}");
        }
        self.unusable = Some(why);
    }

    fn take_up(&mut self, generation: Generation) {
        let old = std::mem::replace(&mut self.generation, Arc::new(generation));
        if old.end(&self.generation) {
            tracing::info!("the credentials have changed; connecting with the new ones");
        }
    }

    fn wants_credential(&self) -> bool {
        self.settings.plugin.is_some() && self.credential.as_ref().is_none_or(Credential::is_past)
    }

    /// Asks the plugin for credentials, unless somebody else has meanwhile.
    async fn ask(&mut self, underlay: &Underlay) -> Result<(), String> {
        let Some(plugin) = self.settings.plugin.clone().filter(|_| self.wants_credential()) else {
            return Ok(());
        };
        let credential = plugin::run(&plugin).await?;
        let generation =
            Generation::new(&self.settings, Some(&credential), underlay, Some(&self.generation))?;
        self.credential = Some(credential);
        self.take_up(generation);
        Ok(())
    }

    /// What may be behind a request that did not work.
    fn note(&self) -> Option<String> {
        let past = self.settings.expiries.iter().filter(|expiry| expiry.is_past()).map(ToString::to_string);
        let unusable = self.unusable.iter().map(|why| format!("what is there now cannot be used: {why}"));
        let withheld = self.settings.withheld.then(|| {
            "the credentials of the kubeconfig are not sent without TLS; give it an https:// server"
                .to_owned()
        });
        let notes: Vec<String> = past.chain(unusable).chain(withheld).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// Reads what the access names on a thread of its own.
///
/// # Errors
/// When something is missing or makes no sense.
pub(super) async fn settings(
    access: &ApiAccess,
    read: fn(&ApiAccess) -> Result<Settings, Error>,
) -> Result<Settings, Error> {
    let own = access.clone();
    aside(move || read(&own)).await.unwrap_or_else(|_| read(access))
}

/// Reads what the access names, if these files are no longer what was seen. What they were is known for certain when the
/// same ones are read again.
fn read_again(
    access: &ApiAccess,
    files: &Vec<PathBuf>,
    seen: Option<&Vec<FileIdentity>>,
) -> Result<Option<Found>, String> {
    let now = identities(files);
    if seen == Some(&now) {
        return Ok(None);
    }
    let settings = Settings::again(access).map_err(|error| error.to_string())?;
    let seen = (*files == settings.files).then_some(now);
    Ok(Some((settings, seen)))
}

fn is_refused(answer: &Result<Response<AnswerBody>, BoxError>) -> bool {
    answer.as_ref().map_or(true, |answer| answer.status() == StatusCode::UNAUTHORIZED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a network filesystem that is down.
    #[tokio::test]
    async fn files_that_hang_are_waited_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let config = "{current-context: x, contexts: [{name: x, context: {cluster: c}}], \
                      clusters: [{name: c, cluster: {server: 'http://192.0.2.1'}}]}";
        std::fs::write(&path, config).unwrap();
        let access = ApiAccess::from_flags(Some(path), None, "test");
        let Renewing(shared) = Renewing::new(&access, &Underlay::plain()).await.unwrap();
        let mut state = shared.state.lock().await;
        let (sender, receiver) = oneshot::channel();
        state.looking = Some(receiver);
        for _ in 0..2 {
            state.look(&shared).await;
            assert!(state.note().unwrap().contains("takes long"));
        }
        assert!(sender.send(Ok(None)).is_ok());
        state.look(&shared).await;
        assert_eq!((state.note(), state.looking.is_some()), (None, false));
    }
}
