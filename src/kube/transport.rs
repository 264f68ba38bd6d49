//! TCP for ureq with a deadline that holds for the whole request, and without a thread.
//!
//! ureq's own transport gives each read the time that is left, so a peer that sends a byte a second
//! inside one TLS record never runs out of it; and its resolver starts a thread for the timeout.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Timeout, config::Config};

/// A read or write that waits looks so often whether the request's time is over.
const TICK: Duration = Duration::from_millis(200);

/// What the client tells its connections, and learns from them.
#[derive(Clone, Debug, Default)]
pub(super) struct Link(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    deadline: Mutex<Option<Instant>>,
    opened: AtomicU64,
}

impl Link {
    /// The request that starts now has to be over by then, answer and all.
    pub(super) fn set_deadline(&self, deadline: Instant) {
        if let Ok(mut current) = self.0.deadline.lock() {
            *current = Some(deadline);
        }
    }

    /// How many connections were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// What is left of the request's time; an error if that is over.
    fn left(&self) -> Result<Duration, ureq::Error> {
        let deadline = self.0.deadline.lock().ok().and_then(|current| *current);
        let left = deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(ureq::Error::Timeout(Timeout::Global));
        }
        Ok(left)
    }
}

/// Opens connections that keep the deadline of their [`Link`].
#[derive(Debug)]
pub(super) struct TcpConnector(pub(super) Link);

impl Connector<()> for TcpConnector {
    type Out = Tcp;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Tcp>, ureq::Error> {
        let mut failure = ureq::Error::HostNotFound;
        for (tried, address) in details.addrs.iter().enumerate() {
            // An address that does not answer must leave time for the next one.
            let remaining = details.addrs.len() - tried;
            let share = self.0.left()? / u32::try_from(remaining).unwrap_or(1);
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(TICK))?;
                    stream.set_write_timeout(Some(TICK))?;
                    self.0.0.opened.fetch_add(1, Ordering::Relaxed);
                    let config = details.config;
                    return Ok(Some(Tcp {
                        stream,
                        buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
                        link: self.0.clone(),
                    }));
                }
                Err(e) => failure = e.into(),
            }
        }
        Err(failure)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
    link: Link,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = self.buffers.output().get(..amount).unwrap_or_default();
        while !rest.is_empty() {
            self.link.left()?;
            match self.stream.write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => rest = &rest[written..],
                Err(e) => waiting(e)?,
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        loop {
            self.link.left()?;
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount > 0);
                }
                Err(e) => waiting(e)?,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Nothing is to be read between two requests: neither bytes nor the end of the stream.
        let (mut byte, flags) = (0u8, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        // SAFETY: the pointer and the length describe `byte`, which outlives the call.
        let read = unsafe { libc::recv(self.stream.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
        read < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }
}

/// A read or write that only waited is tried again: the deadline decides when that is over.
fn waiting(error: io::Error) -> Result<(), ureq::Error> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error.into()),
    }
}

/// Resolves on the calling thread.
#[derive(Debug, Default)]
pub(super) struct SameThreadResolver(DefaultResolver);

impl Resolver for SameThreadResolver {
    fn resolve(&self, uri: &Uri, config: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        // The default timeout never happens; with one that does, ureq starts a thread.
        self.0.resolve(uri, config, NextTimeout::default())
    }
}
