use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};

use super::*;

const NOW_S: i64 = 1_800_000_000;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn ca(name: &str) -> Ca {
    ca_until(name, 2040)
}

fn ca_until(name: &str, year: i32) -> Ca {
    let mut params = CertificateParams::default();
    params.not_after = date_time_ymd(year, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

fn client(ca: &Ca, cn: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The library keeps one value for a type: the second organization comes as its bare OID.
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (kind, group) in types.into_iter().zip(groups) {
        params.distinguished_name.push(kind, *group);
    }
    if !cn.is_empty() {
        params.distinguished_name.push(DnType::CommonName, cn);
    }
    params.extended_key_usages = vec![usage];
    params.not_after = date_time_ymd(2030, 1, 1);
    params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap()
}

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("longshore-tls-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn settings(&self) -> Settings {
        Settings {
            pki_dir: self.0.join("pki"),
            node_name: "node-a".to_owned(),
            ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..Settings::default()
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kept(place: &Place) -> Vec<u8> {
    std::fs::read(place.0.join("pki").join(selfmade::FILE)).unwrap()
}

#[test]
fn a22_a_self_signed_certificate_is_made_once_and_anew_when_it_must() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new("selfmade");
    let serving = Serving::load_or_make(place.settings(), NOW_S).unwrap();
    let first = kept(&place);
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.0.join("pki")), 0o700);
    assert_eq!(mode(place.0.join("pki").join(selfmade::FILE)), 0o600);
    // The same file serves the next daemon, and most of a year.
    Serving::load_or_make(place.settings(), NOW_S + 300 * 86_400).unwrap();
    assert_eq!(kept(&place), first);
    assert!(!serving.reload(NOW_S).unwrap());
    // Near its end, for another name, and where it is damaged, it is made anew.
    assert!(serving.reload(NOW_S + 340 * 86_400).unwrap());
    let second = kept(&place);
    assert_ne!(second, first);
    let other = Settings { node_name: "node-b".to_owned(), ..place.settings() };
    Serving::load_or_make(other, NOW_S + 340 * 86_400).unwrap();
    assert_ne!(kept(&place), second);
    std::fs::write(place.0.join("pki").join(selfmade::FILE), &first[..first.len() / 2]).unwrap();
    Serving::load_or_make(place.settings(), NOW_S).unwrap();
    assert_ne!(kept(&place), first);
}

#[test]
fn a22_changed_files_are_taken_over_and_bad_ones_change_nothing() {
    let place = Place::new("files");
    let pair = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["node-a".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = pair();
    let settings = Settings {
        cert_file: Some(place.write("tls.crt", &cert)),
        key_file: Some(place.write("tls.key", &key)),
        ..place.settings()
    };
    let serving = Serving::load_or_make(settings.clone(), NOW_S).unwrap();
    assert!(!place.0.join("pki").exists());
    let before = serving.config();
    let (other_cert, other_key) = pair();
    place.write("tls.crt", &other_cert);
    let error = serving.reload(NOW_S).unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
    assert!(Arc::ptr_eq(&before, &serving.config()));
    place.write("tls.key", &other_key);
    assert!(serving.reload(NOW_S).unwrap());
    assert!(!Arc::ptr_eq(&before, &serving.config()));
    let half = Settings { key_file: None, ..settings };
    assert!(matches!(Serving::load_or_make(half, NOW_S), Err(TlsError::HalfPair)));
}

#[test]
fn a179_a_certificate_of_the_client_ca_names_user_and_groups_and_no_other_does() {
    let place = Place::new("callers");
    let (own, other) = (ca("own"), ca("other"));
    let settings =
        Settings { client_ca_file: Some(place.write("ca.crt", &own.pem)), ..place.settings() };
    let serving = Serving::load_or_make(settings, NOW_S).unwrap();
    let auth = ExtendedKeyUsagePurpose::ClientAuth;
    let who = |certificate: &Certificate, now_s| {
        serving.identify(std::slice::from_ref(certificate.der()), now_s)
    };
    let good = client(&own, "alice", &["system:masters", "dev"], auth.clone());
    let want = Subject {
        user: "alice".to_owned(),
        groups: vec!["system:masters".to_owned(), "dev".to_owned()],
    };
    assert_eq!(who(&good, NOW_S), Ok(Some(want)));
    assert_eq!(serving.identify(&[], NOW_S), Ok(None));
    assert_eq!(who(&client(&own, "", &["dev"], auth.clone()), NOW_S), Ok(None));
    assert!(who(&client(&other, "alice", &["system:masters"], auth), NOW_S).is_err());
    assert!(who(&client(&own, "srv", &[], ExtendedKeyUsagePurpose::ServerAuth), NOW_S).is_err());
    assert!(who(&good, 1_900_000_000).is_err(), "expired");
    // Another CA counts for the next request.
    place.write("ca.crt", &other.pem);
    assert!(serving.reload(NOW_S).unwrap());
    assert!(who(&good, NOW_S).is_err());
}

#[test]
fn a179_a_client_ca_that_is_over_lets_nobody_in() {
    let place = Place::new("over");
    // 2027, when one of the two is over and its successor is in the same file.
    let (old, new) = (ca_until("old", 2026), ca_until("new", 2040));
    let settings = Settings {
        client_ca_file: Some(place.write("ca.crt", &format!("{}{}", old.pem, new.pem))),
        ..place.settings()
    };
    let serving = Serving::load_or_make(settings, NOW_S).unwrap();
    let who = |ca: &Ca, now_s| {
        let auth = ExtendedKeyUsagePurpose::ClientAuth;
        let certificate = client(ca, "alice", &[], auth);
        serving.identify(std::slice::from_ref(certificate.der()), now_s)
    };
    assert!(who(&old, NOW_S).is_err(), "the client's own certificate is good until 2030");
    assert!(who(&new, NOW_S).unwrap().is_some());
    assert!(who(&old, 1_760_000_000).unwrap().is_some(), "in 2025 it was good");
}

#[test]
fn a22_versions_and_suites_are_the_configured_ones() {
    let place = Place::new("policy");
    let with = |min: &str, suites: &[&str]| Settings {
        min_version: min.to_owned(),
        cipher_suites: suites.iter().map(|&s| s.to_owned()).collect(),
        ..place.settings()
    };
    assert!(matches!(Serving::load_or_make(with("TLS1.2", &[]), NOW_S), Err(TlsError::Version(_))));
    let names = |suites: &[&str]| {
        let all = policy::provider(&with("", suites)).cipher_suites;
        let old = all.iter().filter(|suite| suite.tls13().is_none());
        old.map(|suite| format!("{:?}", suite.suite())).collect::<Vec<_>>()
    };
    let one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    assert_eq!(names(&[one, "TLS_RSA_WITH_AES_128_CBC_SHA"]), [one]);
    assert!(names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).is_empty());
    assert_eq!(names(&[]).len(), 6);
    assert_eq!(policy::versions("VersionTLS13").unwrap().len(), 1);
    assert_eq!(policy::versions("").unwrap().len(), 2);
}
