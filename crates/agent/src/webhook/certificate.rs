//! The certificate that the webhook shows, and its renewal while it runs.
//!
//! The files are looked at once a second, by what `stat` says of them: that works for files, for the links that a
//! Secret's volume is made of, and on every file system. A pair of files is taken over whole or not at all.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Where the certificate and its key are, in PEM.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, and after it those that lead from it to the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate that can be shown, with its key.
struct Certificate {
    key: Arc<CertifiedKey>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    /// Reads and checks the files.
    fn load(files: &Files) -> Result<Self> {
        let (path, shown) = (&files.certificate, files.certificate.display());
        let text = fs::read(path).with_context(|| format!("cannot read the certificate {shown}"))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| anyhow!("the certificate {shown} is not PEM: {error}"))?;
        let first = chain.first().with_context(|| {
            format!("{shown} holds no certificate; it begins with -----BEGIN CERTIFICATE-----")
        })?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first)
            .map_err(|error| anyhow!("the certificate {shown} is not X.509: {error}"))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp())
                .with_context(|| format!("the certificate {shown} has a time that is none"))
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
        let key = key(&files.key)?;
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(
            |error| {
                let key = files.key.display();
                match error {
                    rustls::Error::InconsistentKeys(_) => {
                        anyhow!(
                            "the key {key} does not belong to the certificate {shown}; give both of one pair"
                        )
                    }
                    error => anyhow!("the key {key} cannot be used: {error}"),
                }
            },
        )?;
        Ok(Self { key: Arc::new(key), not_before, not_after })
    }

    /// Whether whoever checks it now lets it pass.
    fn check(&self, files: &Files, now: Timestamp) -> Result<()> {
        let shown = files.certificate.display();
        if now >= self.not_after {
            bail!("the certificate {shown} has expired: it was valid until {}; renew it", self.not_after);
        }
        ensure!(
            now >= self.not_before,
            "the certificate {shown} is valid only from {}; is the clock of this host right?",
            self.not_before
        );
        Ok(())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} to {})", self.not_before, self.not_after)
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let shown = path.display();
    let text = fs::read(path).with_context(|| format!("cannot read the key {shown}"))?;
    // What is wrong in a key file is told without what is in it.
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| anyhow!("{shown} holds no private key in PEM, without a password"))
}

/// The certificate that is shown at this time.
#[derive(Debug)]
pub struct Shown {
    files: Files,
    current: ArcSwap<Certificate>,
}

impl Shown {
    /// Reads the files for the first time. A certificate that becomes valid later is taken: if a clock is wrong, it may
    /// be the one of this host.
    ///
    /// # Errors
    /// When a file cannot be read, the two do not belong together, or the certificate has expired.
    pub fn start(files: Files) -> Result<Self> {
        let certificate = Certificate::load(&files)?;
        let now = Timestamp::now();
        match certificate.check(&files, now) {
            Err(error) if now >= certificate.not_after => return Err(error),
            Err(error) => tracing::warn!("{error:#}"),
            Ok(()) => {}
        }
        Ok(Self { files, current: ArcSwap::from_pointee(certificate) })
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> Timestamp {
        self.current.load().not_after
    }

    /// Why clients refuse the certificate; `None`: they do not.
    pub fn trouble(&self) -> Option<String> {
        let checked = self.current.load().check(&self.files, Timestamp::now());
        checked.err().map(|error| error.to_string())
    }

    /// Takes over what is in the files whenever they change, as long as it can be used. It does not end.
    pub async fn follow(&self, renewed: impl Fn()) {
        let mut watch = Watch { seen: Stamps::of(&self.files), ..Watch::default() };
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.look(&mut watch) {
                renewed();
            }
            let trouble = self.trouble();
            if trouble != watch.trouble {
                if let Some(trouble) = &trouble {
                    tracing::error!("API servers refuse the connection now: {trouble}");
                }
                watch.trouble = trouble;
            }
        }
    }

    /// Whether there is another certificate now.
    fn look(&self, watch: &mut Watch) -> bool {
        let stamps = Stamps::of(&self.files);
        if stamps == watch.seen && !watch.waiting {
            return false;
        }
        let changed = stamps != watch.seen;
        watch.seen = stamps;
        let loaded = Certificate::load(&self.files).and_then(|new| {
            let now = Timestamp::now();
            // One that is to become valid is asked for again.
            watch.waiting = now < new.not_before;
            new.check(&self.files, now).map(|()| new)
        });
        match loaded {
            Ok(new) => {
                tracing::info!(not_after = %new.not_after, "the certificate has been renewed");
                self.current.store(Arc::new(new));
                watch.waiting = false;
                true
            }
            Err(error) => {
                if changed {
                    let until = self.not_after();
                    tracing::error!(
                        "the new certificate is not used, the old one is, valid until {until}: {error:#}"
                    );
                }
                false
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

/// What has been seen of the files so far.
#[derive(Default)]
struct Watch {
    seen: Stamps,
    /// Whether the files hold a certificate that is not valid yet.
    waiting: bool,
    trouble: Option<String>,
}

/// What `stat` says of both files; `None`: a file is not there.
#[derive(Default, PartialEq, Eq)]
struct Stamps {
    certificate: Option<Stamp>,
    key: Option<Stamp>,
}

/// By what a file is told from another one, and from itself with another content.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last change of the inode, and of the content.
    times: [(i64, i64); 2],
}

impl Stamps {
    fn of(files: &Files) -> Self {
        Self { certificate: Stamp::of(&files.certificate), key: Stamp::of(&files.key) }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            bytes: data.len(),
            times: [(data.ctime(), data.ctime_nsec()), (data.mtime(), data.mtime_nsec())],
        })
    }
}
