//! The transport between a node and the cluster: ureq's, without a network, in virtual time.

use std::fmt;
use std::io::{self, Cursor, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k6u_testkit::apiserver::http::Request;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::clock::Sleeper;
use crate::cluster::Cluster;
use crate::site::{Window, within};

/// A node's connection to the cluster.
#[derive(Clone)]
pub struct Wire {
    /// The node's share in the clock.
    pub sleeper: Arc<Sleeper>,
    /// The cluster that answers.
    pub cluster: Arc<Mutex<Cluster>>,
    /// The source of the random one-way latencies.
    pub latency: Arc<Mutex<fastrand::Rng>>,
    /// The longest one-way latency.
    pub slowest: Duration,
    /// The times in which nothing gets through between this node and the API server.
    pub cuts: Vec<Window>,
    /// The time at which k6u ends, even in the middle of a request.
    pub end: Duration,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    fn travel(&self) -> io::Result<()> {
        let random = self.latency.lock().expect("no panic meanwhile").f64();
        // Most are quick, few are slow.
        let time = self.slowest.mul_f64(0.02 + 0.98 * random.powi(4));
        let broken = || io::Error::from(ErrorKind::ConnectionReset);
        self.sleeper.sleep(time).map_err(|_| broken())?;
        let now = self.sleeper.now();
        if now >= self.end || within(&self.cuts, now) {
            return Err(broken());
        }
        Ok(())
    }

    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        let parsed = Request::read(&mut Cursor::new(request), &mut rest)?.expect("a request");
        self.travel()?;
        let at = self.sleeper.now();
        let answer = {
            let mut cluster = self.cluster.lock().expect("no panic meanwhile");
            cluster.answer(&parsed, request.len(), at)
        };
        let answer = answer.ok_or_else(|| io::Error::from(ErrorKind::ConnectionRefused))?;
        self.travel()?;
        Ok(answer)
    }
}

impl Connector<()> for Wire {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Connection>, ureq::Error> {
        let config = details.config;
        Ok(Some(Connection {
            wire: self.clone(),
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            request: Vec::new(),
            answer: Cursor::default(),
        }))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    buffers: LazyBuffers,
    request: Vec<u8>,
    answer: Cursor<Vec<u8>>,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.request.extend(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        if !self.request.is_empty() {
            let request = std::mem::take(&mut self.request);
            self.answer = Cursor::new(self.wire.exchange(&request)?);
        }
        let amount = io::Read::read(&mut self.answer, self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        true
    }

    fn is_tls(&self) -> bool {
        true
    }
}
