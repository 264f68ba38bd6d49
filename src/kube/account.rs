//! The service account's files: the token, which the kubelet rotates, and the cluster's CA.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, parse_pem};

/// A token is some 1 KiB. The head of a request has to fit into the 16 KiB of the client's output buffer.
const MAX_TOKEN: u64 = 12 * 1024;
/// A bundle of CAs is some KiB; more is some other file.
const MAX_CA: u64 = 512 * 1024;
/// The usual size of such a file, which is read by one call.
const USUAL: usize = 4 * 1024;

/// The folder that the kubelet mounts.
#[derive(Debug)]
pub(super) struct Account {
    folder: PathBuf,
}

impl Account {
    pub(super) fn new(folder: PathBuf) -> Self {
        Account { folder }
    }

    /// The bearer token as it is in the file now.
    pub(super) fn token(&self) -> Result<String, String> {
        let path = self.folder.join("token");
        let bytes = read(&path, MAX_TOKEN)?;
        let token = bytes.trim_ascii();
        if token.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        // RFC 6750 section 2.1 allows visible ASCII; anything else breaks the header.
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(format!(
                "{} holds no token: a byte in it is not visible ASCII",
                path.display()
            ));
        }
        Ok(token.iter().map(|b| char::from(*b)).collect())
    }

    /// `ca.crt` as it is in the file now, not parsed.
    pub(super) fn ca_bundle(&self) -> Result<Vec<u8>, String> {
        read(&self.ca_path(), MAX_CA)
    }

    /// The certificates in such a bundle, at least one.
    pub(super) fn certificates(&self, bundle: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
        let mut list = Vec::new();
        for item in parse_pem(bundle) {
            match item {
                Ok(PemItem::Certificate(certificate)) => list.push(certificate),
                Ok(_) => {}
                Err(e) => return Err(format!("{} is not whole PEM: {e}", self.ca_path().display())),
            }
        }
        if list.is_empty() {
            return Err(format!("{} holds no certificate", self.ca_path().display()));
        }
        Ok(list)
    }

    fn ca_path(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(USUAL);
    let file = File::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if bytes.len() as u64 > max {
        return Err(format!("{} is longer than {max} bytes", path.display()));
    }
    Ok(bytes)
}
