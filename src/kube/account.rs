//! The service account's files: the token, which the kubelet rotates, and the cluster's CA.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, parse_pem};

/// A token is some 1 KiB. The head of a request has to fit into the 8,000 bytes of the client's output buffer.
const MAX_TOKEN: u64 = 6 * 1024;
/// A bundle of CAs is some KiB; more is some other file.
const MAX_CA: u64 = 512 * 1024;
/// The usual size of such a file, which is read by one call.
const USUAL: usize = 4 * 1024;

/// The folder that the kubelet mounts.
#[derive(Debug)]
pub(super) struct Account {
    token: PathBuf,
    ca: PathBuf,
    /// What was read last.
    bytes: Vec<u8>,
}

impl Account {
    pub(super) fn new(folder: &Path) -> Self {
        Account {
            token: folder.join("token"),
            ca: folder.join("ca.crt"),
            bytes: Vec::with_capacity(USUAL),
        }
    }

    /// The bearer token as it is in the file now.
    pub(super) fn token(&mut self) -> Result<&str, String> {
        let path = &self.token;
        read(path, MAX_TOKEN, &mut self.bytes)?;
        // What is no UTF-8 is no ASCII either.
        let token = str::from_utf8(self.bytes.trim_ascii()).unwrap_or("\u{fffd}");
        if token.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        // RFC 6750 section 2.1 allows visible ASCII; anything else breaks the header.
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{} holds no token: a byte in it is not visible ASCII",
                path.display()
            ));
        }
        Ok(token)
    }

    /// `ca.crt` as it is in the file now, not parsed.
    pub(super) fn ca_bundle(&mut self) -> Result<&[u8], String> {
        read(&self.ca, MAX_CA, &mut self.bytes)?;
        Ok(&self.bytes)
    }

    /// The certificates in a bundle from `ca.crt`, at least one.
    pub(super) fn certificates(&self, bundle: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
        let mut list = Vec::new();
        for item in parse_pem(bundle) {
            match item {
                Ok(PemItem::Certificate(certificate)) => list.push(certificate),
                Ok(_) => {}
                Err(e) => return Err(format!("{} is not whole PEM: {e}", self.ca.display())),
            }
        }
        if list.is_empty() {
            return Err(format!("{} holds no certificate", self.ca.display()));
        }
        Ok(list)
    }
}

fn read(path: &Path, max: u64, bytes: &mut Vec<u8>) -> Result<(), String> {
    bytes.clear();
    let file = File::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    let read = file.take(max + 1).read_to_end(bytes);
    read.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if bytes.len() as u64 > max {
        return Err(format!("{} is longer than {max} bytes", path.display()));
    }
    Ok(())
}
