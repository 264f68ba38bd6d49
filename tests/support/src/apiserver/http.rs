//! HTTP/1.1 as far as an API server and its clients need it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::Duration;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The query's parameters, as they are written.
    pub query: BTreeMap<String, String>,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// All headers but Date and those for the body's length.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Go's net/http sends longer bodies in chunks.
const CHUNKED_FROM: usize = 2048;

impl Request {
    /// A request as a test writes it.
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Request {
            method: method.into(),
            path: path.into(),
            query: pairs.map(|(key, value)| (key.into(), value.into())).collect(),
            ..Request::default()
        }
    }

    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The parameter `timeout`, after which the API server gives up. Of Go's durations, k6u writes only whole seconds
    /// or milliseconds.
    pub fn timeout(&self) -> Option<Duration> {
        let text = self.query.get("timeout")?;
        match text.strip_suffix("ms") {
            Some(millis) => millis.parse().ok().map(Duration::from_millis),
            None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
        }
    }

    /// Reads the next request of a connection; `None` at its end.
    ///
    /// # Errors
    /// Errors of reading, or of parsing HTTP.
    pub fn read(stream: &mut impl Read, rest: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let mut buffer = [0u8; 16 * 1024];
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut headers);
            let status = parsed.parse(rest).map_err(|e| bad(&e.to_string()))?;
            if let httparse::Status::Complete(head) = status {
                let mut request = Request::new(parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
                for header in parsed.headers.iter() {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    request.headers.insert(header.name.to_ascii_lowercase(), value);
                }
                let length: usize = match request.header("content-length") {
                    "" if request.header("transfer-encoding").is_empty() => 0,
                    text => text.parse().map_err(|_| bad("a body without Content-Length"))?,
                };
                while rest.len() < head + length {
                    let read = stream.read(&mut buffer)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    rest.extend(&buffer[..read]);
                }
                request.body = rest[head..head + length].to_vec();
                rest.drain(..head + length);
                return Ok(Some(request));
            }
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return if rest.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            rest.extend(&buffer[..read]);
        }
    }
}

impl Response {
    /// A response with a body of this type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = [("Cache-Control", "no-cache, private"), ("Content-Type", content_type)];
        Response {
            status,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .to_vec(),
            body: body.into(),
        }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The bytes on the wire, and the offset of the body in them.
    pub fn bytes(&self, date: &str) -> (Vec<u8>, usize) {
        let mut bytes = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status)).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        bytes.extend(format!("Date: {date}\r\n").bytes());
        let chunked = self.body.len() > CHUNKED_FROM;
        match chunked {
            true => bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n"),
            false => bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes()),
        }
        let body_at = bytes.len();
        if chunked {
            for chunk in self.body.chunks(16 * 1024) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(&self.body);
        }
        (bytes, body_at)
    }

    /// Writes the whole response.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn write(&self, stream: &mut impl Write, date: &str) -> io::Result<usize> {
        let (bytes, _) = self.bytes(date);
        stream.write_all(&bytes)?;
        stream.flush()?;
        Ok(bytes.len())
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
