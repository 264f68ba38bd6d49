//! A certificate authority for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// A CA that signs server certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// How a server certificate differs from a good one.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// IP addresses and DNS names that it is for.
    pub names: Vec<String>,
    /// Whether it ran out yesterday.
    pub expired: bool,
    /// For how many days it is valid, before and after now.
    pub days: i64,
}

impl Default for Certificate {
    fn default() -> Self {
        Certificate {
            names: ["127.0.0.1", "::1", "localhost", "kubernetes.default.svc"]
                .map(String::from)
                .to_vec(),
            expired: false,
            days: 365 * 3,
        }
    }
}

impl Authority {
    /// A new CA with a key of its own.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named("test-ca");
        let key = KeyPair::generate().expect("a key");
        Authority {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a CA"),
        }
    }

    /// What goes into ca.crt.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A TLS server with a certificate of this CA.
    pub fn server(&self, certificate: &Certificate) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(certificate.names.clone()).expect("names");
        params.distinguished_name = named("kube-apiserver");
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(certificate.days);
        params.not_after = now + Duration::days(if certificate.expired { -1 } else { certificate.days });
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)
            .expect("a matching key");
        Arc::new(config)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

/// A private key and its public half as PEM, for signing tokens.
pub fn signing_key() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    (key.serialize_pem(), key.public_key_pem())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
