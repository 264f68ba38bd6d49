//! TCP for ureq with a deadline that holds for the whole request, name resolution included.
//!
//! ureq's own transport gives each read the time that is left, so a peer that sends a byte a second
//! inside one TLS record never runs out of it; and its resolver asks before each request.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ArrayVec, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Timeout, config::Config};

/// Socket timeout: how often a blocked read or write checks the request's deadline.
const TICK: Duration = Duration::from_millis(200);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;
/// Encrypted bytes that are read, and written, by one call: a TLS record may be longer. With the allocator's header the
/// buffers take whole pages.
const INPUT: usize = 8_000;
const OUTPUT: usize = 4_000;
/// A connection that was answered this recently is taken for open: a round need not look before each of its requests.
const FRESH: Duration = Duration::from_millis(500);
/// Stack of the thread that resolves a name.
const LOOKUP_STACK: usize = 256 * 1024;

/// The state that the client shares with its connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Link(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    deadline: Mutex<Option<Instant>>,
    opened: AtomicU64,
    connecting: AtomicBool,
}

impl Link {
    /// Starts a request, which has to be over by `deadline`, response and all.
    pub(super) fn start_request(&self, deadline: Instant) {
        self.0.connecting.store(false, Ordering::Relaxed);
        if let Ok(mut current) = self.0.deadline.lock() {
            *current = Some(deadline);
        }
    }

    /// The number of connections opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Whether the request got no further than connecting: looking up the name, TCP, TLS.
    pub(super) fn is_connecting(&self) -> bool {
        self.0.connecting.load(Ordering::Relaxed)
    }

    /// The rest of the request's time; an error if that is over.
    fn left(&self) -> Result<Duration, ureq::Error> {
        let deadline = self.0.deadline.lock().ok().and_then(|current| *current);
        let left = deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(ureq::Error::Timeout(Timeout::Global));
        }
        Ok(left)
    }
}

/// Resolves nothing: [`TcpConnector`] looks up names, and only when it has to connect.
#[derive(Debug, Default)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let placeholder = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut addresses = ArrayVec::from_fn(|_| placeholder);
        addresses.push(placeholder);
        Ok(addresses)
    }
}

/// Opens connections that keep the deadline of their [`Link`].
#[derive(Debug)]
pub(super) struct TcpConnector {
    link: Link,
    lookup: Lookup,
}

impl TcpConnector {
    pub(super) fn new(link: Link) -> Self {
        let lookup = Lookup::default();
        TcpConnector { link, lookup }
    }
}

impl Connector<()> for TcpConnector {
    type Out = Tcp;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Tcp>, ureq::Error> {
        self.link.0.connecting.store(true, Ordering::Relaxed);
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(443);
        let addresses = self.lookup.addresses(host, port, self.link.left()?)?;
        let mut failure = ureq::Error::HostNotFound;
        for (tried, address) in addresses.iter().take(MAX_ADDRESSES).enumerate() {
            // An address that does not answer must leave time for the next one.
            let remaining = addresses.len().min(MAX_ADDRESSES) - tried;
            let share = self.link.left()? / u32::try_from(remaining).unwrap_or(1);
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(TICK))?;
                    stream.set_write_timeout(Some(TICK))?;
                    self.link.0.opened.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(Tcp {
                        stream,
                        buffers: LazyBuffers::new(INPUT, OUTPUT),
                        held: Vec::with_capacity(OUTPUT),
                        link: self.link.clone(),
                        answered: Instant::now(),
                    }));
                }
                Err(e) => failure = e.into(),
            }
        }
        Err(failure)
    }
}

/// The last connector of the chain: records that the connection is complete, with TLS.
#[derive(Debug)]
pub(super) struct Connected(pub(super) Link);

impl<In: Transport> Connector<In> for Connected {
    type Out = In;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<In>, ureq::Error> {
        self.0.0.connecting.store(false, Ordering::Relaxed);
        Ok(chained)
    }
}

type Found = io::Result<Vec<SocketAddr>>;

/// Looks up names, within a time that getaddrinfo(3) does not know.
///
/// A lookup that takes longer goes on in its thread, and the next request waits for the same one: there is one
/// thread at most, and none for an IP address.
#[derive(Debug)]
struct Lookup {
    resolve: fn(&str, u16) -> Found,
    running: Mutex<Option<Receiver<Found>>>,
}

impl Default for Lookup {
    fn default() -> Self {
        Lookup {
            resolve: |host, port| Ok((host, port).to_socket_addrs()?.collect()),
            running: Mutex::default(),
        }
    }
}

impl Lookup {
    fn addresses(&self, host: &str, port: u16, time: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut running = self.running.lock().map_err(|_| ureq::Error::HostNotFound)?;
        let pending = match running.take() {
            Some(pending) => pending,
            None => self.start(host, port)?,
        };
        match pending.recv_timeout(time) {
            Ok(found) => Ok(found?),
            Err(RecvTimeoutError::Timeout) => {
                *running = Some(pending);
                Err(ureq::Error::Timeout(Timeout::Resolve))
            }
            Err(RecvTimeoutError::Disconnected) => Err(ureq::Error::HostNotFound),
        }
    }

    fn start(&self, host: &str, port: u16) -> io::Result<Receiver<Found>> {
        let (sender, receiver) = sync_channel(1);
        let (resolve, host) = (self.resolve, host.to_string());
        let thread = thread::Builder::new().name("lookup".into()).stack_size(LOOKUP_STACK);
        // The request that waited for the result may be over.
        thread.spawn(move || drop(sender.send(resolve(&host, port))))?;
        Ok(receiver)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// Output that is held back: ureq hands over the head and the body of a request one after the other.
    held: Vec<u8>,
    link: Link,
    /// When something came last.
    answered: Instant,
}

impl Tcp {
    fn flush(&mut self) -> Result<(), ureq::Error> {
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            self.link.left()?;
            match self.stream.write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => rest = &rest[written..],
                Err(e) => waiting(e)?,
            }
        }
        self.held.clear();
        Ok(())
    }
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        if self.held.len() + amount > OUTPUT {
            self.flush()?;
        }
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.held.extend_from_slice(output);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        self.flush()?;
        loop {
            self.link.left()?;
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    self.answered = Instant::now();
                    return Ok(amount > 0);
                }
                Err(e) => waiting(e)?,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        if self.answered.elapsed() < FRESH {
            return true;
        }
        // Nothing is to be read between two requests: neither bytes nor the end of the stream.
        let look = || -> io::Result<usize> {
            self.stream.set_nonblocking(true)?;
            let seen = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            seen
        };
        look().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Lets a read or write that only waited be tried again: the deadline decides for how long.
fn waiting(error: io::Error) -> Result<(), ureq::Error> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LOOKUPS: AtomicU64 = AtomicU64::new(0);
    static ANSWER: AtomicBool = AtomicBool::new(false);

    fn dead_name_server(_: &str, port: u16) -> Found {
        LOOKUPS.fetch_add(1, Ordering::SeqCst);
        while !ANSWER.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))])
    }

    #[test]
    fn a_lookup_keeps_the_deadline_of_its_request() {
        let lookup = Lookup {
            resolve: dead_name_server,
            ..Lookup::default()
        };
        for _ in 0..3 {
            let result = lookup.addresses("api.example.com", 6443, Duration::from_millis(20));
            assert!(
                matches!(result, Err(ureq::Error::Timeout(Timeout::Resolve))),
                "{result:?}"
            );
        }
        ANSWER.store(true, Ordering::SeqCst);
        let found = lookup.addresses("api.example.com", 6443, Duration::from_secs(60));
        assert_eq!(found.unwrap(), [SocketAddr::from((Ipv4Addr::LOCALHOST, 6443))]);
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1, "all waited for the same one");
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let lookup = Lookup {
            resolve: |_, _| panic!("it is an address"),
            ..Lookup::default()
        };
        for (host, address) in [("192.0.2.1", "192.0.2.1:443"), ("[2001:db8::1]", "[2001:db8::1]:443")] {
            let found = lookup.addresses(host, 443, Duration::ZERO).unwrap();
            assert_eq!(found, [address.parse().unwrap()]);
        }
    }
}
