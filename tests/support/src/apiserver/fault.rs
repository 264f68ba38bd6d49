//! What can go wrong between k6u and the API server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::apiserver::http::Response;

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This is answered, and the request is not carried out.
    Answer(Response),
    /// Nothing is answered until the client gives up.
    Hang,
    /// The real answer, one byte in each such time.
    Drip(Duration),
    /// The real answer up to this many bytes, counted from its start, then the connection is closed.
    CutAt(usize),
    /// The real answer up to this many bytes into its body, then the connection is closed.
    CutBodyAt(usize),
    /// The real answer's head with this body, over and over, without end.
    Endless(Vec<u8>),
    /// A webhook that does not answer for this time and is ignored then. The request is carried out, or given up when
    /// the time that it asks for is over.
    Webhook(Duration),
    /// The real answer after this time.
    Late(Duration),
    /// The real answer, as it is when the request comes, but sent only once this is set.
    Held(Arc<AtomicBool>),
}

/// Which requests a fault is for, and how many of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `METHOD /path` contains this.
    pub part: String,
    /// How many requests are left; `usize::MAX` is all.
    pub times: usize,
    /// Of the requests that it is for, every n-th one is hit.
    pub every: usize,
    /// How many it was for since the last hit.
    pub spared: usize,
    /// What happens.
    pub fault: Fault,
}

impl Plan {
    /// For every request.
    pub fn always(fault: Fault) -> Self {
        Plan {
            part: String::new(),
            times: usize::MAX,
            every: 1,
            spared: 0,
            fault,
        }
    }

    /// For every n-th request.
    pub fn every(every: usize, fault: Fault) -> Self {
        Plan {
            every,
            ..Plan::always(fault)
        }
    }

    /// For requests whose `METHOD /path` contains `part`.
    pub fn on(part: &str, times: usize, fault: Fault) -> Self {
        Plan {
            part: part.into(),
            times,
            ..Plan::always(fault)
        }
    }

    /// Takes this fault for the request, if it is for it.
    pub fn take(&mut self, line: &str) -> Option<Fault> {
        // A dollar is the end of the line.
        let is_meant = match self.part.strip_suffix('$') {
            Some(end) => line.ends_with(end),
            None => line.contains(&self.part),
        };
        if self.times == 0 || !is_meant {
            return None;
        }
        self.spared += 1;
        if self.spared < self.every {
            return None;
        }
        self.spared = 0;
        if self.times != usize::MAX {
            self.times -= 1;
        }
        Some(self.fault.clone())
    }
}
