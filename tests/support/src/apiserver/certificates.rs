//! A certificate authority for one test.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SigningKey,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
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

    /// The content of ca.crt.
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

/// A key that signs service account tokens (ECDSA on P-256).
pub struct TokenKey(KeyPair);

impl TokenKey {
    /// A new key.
    pub fn new() -> Self {
        TokenKey(KeyPair::generate().expect("a key"))
    }

    /// The private key and its public half as PEM.
    pub fn pem(&self) -> (String, String) {
        (self.0.serialize_pem(), self.0.public_key_pem())
    }

    /// The token with other times: it expires in this many seconds (RFC 7519, RFC 7515).
    pub fn limited(&self, token: &str, seconds: i64) -> String {
        let parts: Vec<&str> = token.trim().split('.').collect();
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).expect("base64url");
        let mut claims: Value = serde_json::from_slice(&claims).expect("JSON");
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for (name, time) in [("iat", now - 3600), ("nbf", now - 3600), ("exp", now + seconds)] {
            claims[name] = time.into();
        }
        let signed = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = fixed(&self.0.sign(signed.as_bytes()).expect("a signature"));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Default for TokenKey {
    fn default() -> Self {
        TokenKey::new()
    }
}

/// Converts an ECDSA signature from ASN.1 (a sequence of two integers) to two numbers of 32 bytes (RFC 7518 section
/// 3.4).
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let digits = &rest[2..2 + length];
        let digits = &digits[digits.iter().take_while(|byte| **byte == 0).count()..];
        numbers.extend(std::iter::repeat_n(0, 32 - digits.len()));
        numbers.extend(digits);
        rest = &rest[2 + length..];
    }
    numbers
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
