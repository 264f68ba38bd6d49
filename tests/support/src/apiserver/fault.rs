//! Faults between k6u and the API server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::apiserver::http::Response;

/// A fault of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server answers this, and does not carry out the request.
    Answer(Response),
    /// The server answers nothing until the client gives up.
    Hang,
    /// The real answer, one byte at a time with this pause.
    Drip(Duration),
    /// The real answer up to this many bytes, counted from its start, then the connection is closed.
    CutAt(usize),
    /// The real answer up to this many bytes into its body, then the connection is closed.
    CutBodyAt(usize),
    /// The real answer's head with this body, over and over, without end.
    Endless(Vec<u8>),
    /// A webhook that does not answer for this time and is ignored then. The server carries out the request, or gives
    /// up after the timeout that the request asks for.
    Webhook(Duration),
    /// The real answer after this time.
    Late(Duration),
    /// The real answer at the time of the request, but sent only once this is set.
    Held(Arc<AtomicBool>),
}

/// A fault, and the requests that meet it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A part of `METHOD /path`; with a dollar at its end, the end of it.
    pub part: String,
    /// The number of requests that will still meet it; `usize::MAX` is all.
    pub times: usize,
    /// Every n-th matching request meets it.
    pub every: usize,
    /// The number of matching requests since the last one that met it.
    pub skipped: usize,
    /// The fault.
    pub fault: Fault,
}

impl Plan {
    /// A fault of every request.
    pub fn always(fault: Fault) -> Self {
        Plan {
            part: String::new(),
            times: usize::MAX,
            every: 1,
            skipped: 0,
            fault,
        }
    }

    /// A fault of every n-th request.
    pub fn every(every: usize, fault: Fault) -> Self {
        Plan {
            every,
            ..Plan::always(fault)
        }
    }

    /// A fault of this many requests whose `METHOD /path` contains `part`.
    pub fn on(part: &str, times: usize, fault: Fault) -> Self {
        Plan {
            part: part.into(),
            times,
            ..Plan::always(fault)
        }
    }

    /// Returns the fault if the request meets it, and counts it.
    pub fn take(&mut self, line: &str) -> Option<Fault> {
        // A dollar stands for the end of the line.
        let is_match = match self.part.strip_suffix('$') {
            Some(end) => line.ends_with(end),
            None => line.contains(&self.part),
        };
        if self.times == 0 || !is_match {
            return None;
        }
        self.skipped += 1;
        if self.skipped < self.every {
            return None;
        }
        self.skipped = 0;
        if self.times != usize::MAX {
            self.times -= 1;
        }
        Some(self.fault.clone())
    }
}
