//! Which servers are believed, compared with Go's `crypto/x509`.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::{
    client::danger::ServerCertVerifier as _,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::{authorities, provider};

/// The server's name.
const NAME: &str = "api.kilo.test";
/// 2026, in seconds.
const NOW: u64 = 1_767_225_600;

struct Made {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(common: &str, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    params.is_ca = is_ca;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = params("root", IsCa::Ca(BasicConstraints::Unconstrained));
    params.subject_alt_names.clear();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Made { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
}

fn below(issuer: &Made, common: &str, is_ca: IsCa, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = params(common, is_ca);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Made { pem: params.signed_by(&key, &issuer.issuer).unwrap().pem(), issuer: Issuer::new(params, key) }
}

fn leaf(issuer: &Made, change: impl FnOnce(&mut CertificateParams)) -> Made {
    below(issuer, "server", IsCa::NoCa, change)
}

fn middle(issuer: &Made, change: impl FnOnce(&mut CertificateParams)) -> Made {
    below(issuer, "middle", IsCa::Ca(BasicConstraints::Unconstrained), change)
}

fn same(_: &mut CertificateParams) {}

fn ended(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2021, 1, 1);
}

fn begins(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2030, 1, 1);
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

fn for_servers(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn not_for_signing(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
}

fn strange(params: &mut CertificateParams) {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

fn only_for(name: &'static str) -> impl Fn(&mut CertificateParams) {
    move |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
            excluded_subtrees: vec![],
        });
    }
}

fn limited(length: u8) -> impl Fn(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length))
}

/// What is trusted, what the server shows, under which name, and what has to become of it.
struct Case {
    what: &'static str,
    trusted: String,
    shown: Vec<String>,
    name: &'static str,
    refused: Option<&'static str>,
}

fn check(case: &Case) -> Result<(), String> {
    let shown: Vec<_> =
        case.shown.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
    let provider = std::sync::Arc::new(provider());
    let verifier = authorities(case.trusted.as_bytes(), "ca.crt", &provider)?;
    let name = ServerName::try_from(case.name).unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    let verified = verifier.verify_server_cert(&shown[0], &shown[1..], &name, &[], now);
    verified.map(drop).map_err(|error| error.to_string())
}

fn check_all(cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        match (check(case), case.refused) {
            (Ok(()), None) => {}
            (Err(said), Some(words)) if said.contains(words) => {}
            (got, expected) => wrong.push(format!("{}: expected {expected:?}, got {got:?}", case.what)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn case(
    what: &'static str,
    trusted: &[&Made],
    shown: &[&Made],
    refused: impl Into<Option<&'static str>>,
) -> Case {
    let shown = shown.iter().map(|made| made.pem.clone()).collect();
    let trusted = trusted.iter().map(|made| &*made.pem).collect();
    Case { what, trusted, shown, name: NAME, refused: refused.into() }
}

impl Case {
    fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    fn and_trusted(mut self, pem: &str) -> Self {
        self.trusted.push_str(pem);
        self
    }
}

#[test]
fn authorities_vouch_within_their_limits() {
    let plain = root(same);
    let server = leaf(&plain, same);
    let of = |what, authority: &Made, refused| case(what, &[authority], &[&leaf(authority, same)], refused);
    let successor = {
        let old = root(ended);
        let mut params = params("root", IsCa::Ca(BasicConstraints::Unconstrained));
        params.subject_alt_names.clear();
        let renewed = params.self_signed(old.issuer.key()).unwrap().pem();
        case("ended, with its successor", &[&old], &[&leaf(&old, same)], None).and_trusted(&renewed)
    };
    check_all(&[
        of("plain", &plain, None),
        of("ended", &root(ended), Some("the authority CN=root cannot vouch for it: it has expired")),
        of("not yet", &root(begins), Some("not valid yet")),
        of("for clients", &root(for_clients), Some("not for servers")),
        of("for servers", &root(for_servers), None),
        of("not for signing", &root(not_for_signing), Some("not for signing")),
        of(
            "no authority",
            &root(|params| params.is_ca = IsCa::ExplicitNoCa),
            Some("no certificate authority"),
        ),
        of("says nothing", &root(|params| params.is_ca = IsCa::NoCa), Some("no certificate authority")),
        of("strange", &root(strange), Some("critical extension")),
        of("of another domain", &root(only_for("example.com")), Some("")),
        of("of the domain", &root(only_for("kilo.test")), None),
        of("with room for none below", &root(limited(0)), None),
        case(
            "a server's own beside its authority's",
            &[&plain, &server],
            &[&leaf(&server, same)],
            "authority",
        ),
        case("a server's own alone", &[&server], &[&leaf(&server, same)], "authority"),
        case("another with the same name", &[&root(same)], &[&server], ""),
        successor,
    ]);
}

#[test]
fn authorities_between_vouch_within_their_limits() {
    let plain = root(same);
    let of = |what, middle: &Made, refused| case(what, &[&plain], &[&leaf(middle, same), middle], refused);
    let two = |what, above: &Made, refused| {
        let upper = middle(above, same);
        let lower = below(&upper, "lower", IsCa::Ca(BasicConstraints::Unconstrained), same);
        case(what, &[above], &[&leaf(&lower, same), &lower, &upper], refused)
    };
    let tight = root(limited(0));
    let narrow = middle(&tight, same);
    let good = middle(&plain, same);
    check_all(&[
        of("plain", &good, None),
        of("between ended", &middle(&plain, ended), Some("")),
        of("between for clients", &middle(&plain, for_clients), Some("")),
        of("between not for signing", &middle(&plain, not_for_signing), Some("not for signing")),
        of("a server", &leaf(&plain, same), Some("")),
        of("explicitly none", &middle(&plain, |params| params.is_ca = IsCa::ExplicitNoCa), Some("")),
        of("between strange", &middle(&plain, strange), Some("")),
        of("between of another domain", &middle(&plain, only_for("example.com")), Some("")),
        case("none may be below", &[&tight], &[&leaf(&narrow, same), &narrow], "more authorities below"),
        case("itself trusted", &[&narrow], &[&leaf(&narrow, same)], None),
        two("one may be below, and two are", &root(limited(1)), Some("more authorities below")),
        two("two may be below", &root(limited(2)), None),
        case("missing", &[&plain], &[&leaf(&good, same)], ""),
    ]);
}

#[test]
fn servers_prove_their_own_names_and_purpose() {
    let plain = root(same);
    let of = |what, change: &dyn Fn(&mut CertificateParams), refused: Option<&'static str>| {
        let server = leaf(&plain, change);
        let by_authority = case(what, &[&plain], &[&server], refused);
        [by_authority, case(what, &[&server], &[&server], refused)]
    };
    let names = |names: &'static [&'static str]| {
        move |params: &mut CertificateParams| {
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
        }
    };
    let address = |text: &'static str| {
        move |params: &mut CertificateParams| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName(text.try_into().unwrap())];
        }
    };
    let mut cases: Vec<_> = [
        of("plain server", &same, None),
        of("ended", &ended, Some("expired")),
        of("not yet", &begins, Some("not valid yet")),
        of("for clients", &for_clients, Some("")),
        of("strange", &strange, Some("")),
        of("without names", &names(&[]), Some("")),
        of("of another name", &names(&["example.com"]), Some("")),
        of("a wildcard", &names(&["*.kilo.test"]), None),
        of("a wildcard too high", &names(&["*.test"]), Some("")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let named = |what, change: &dyn Fn(&mut CertificateParams), name, refused| {
        of(what, change, refused).map(|case| case.named(name))
    };
    cases.extend(named("an address", &names(&["192.0.2.1"]), "192.0.2.1", None));
    cases.extend(named("another address", &names(&["192.0.2.1"]), "192.0.2.2", Some("")));
    cases.extend(named("IPv6", &names(&["2001:db8::1"]), "2001:db8::1", None));
    cases.extend(named("an address as a name", &address("192.0.2.1"), "192.0.2.1", Some("")));
    cases.extend(named("an address in capitals", &names(&["api.kilo.test"]), "API.Kilo.TEST", None));
    check_all(&cases);
}

/// Go takes these from authorities, too.
#[test]
fn what_is_no_servers_certificate_has_to_be_known_itself() {
    let plain = root(same);
    let is_ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let any = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    };
    let (authority, any) = (leaf(&plain, is_ca), leaf(&plain, any));
    check_all(&[
        case("an authority", &[&plain], &[&authority], ""),
        case("an authority that is known", &[&authority], &[&authority], None),
        case("any purpose", &[&plain], &[&any], ""),
        case("any purpose, known", &[&any], &[&any], None),
    ]);
}

/// A signature of TLS says which hash it is made with, and no other is taken for it.
#[test]
fn signatures_are_made_with_the_hash_that_they_name() {
    let mapping = provider().signature_verification_algorithms.mapping;
    let p521 = mapping.iter().find(|(scheme, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP521_SHA512);
    let hashes: Vec<_> = p521.unwrap().1.iter().map(|algorithm| algorithm.signature_alg_id()).collect();
    assert_eq!(hashes, [rustls::pki_types::alg_id::ECDSA_SHA512]);
}
