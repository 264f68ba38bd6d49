//! Virtual time: threads that take turns, in the order of the times for which they sleep.
//!
//! Only one of them runs at any moment, so a run with the same seed is the same run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, Thread};
use std::time::Duration;

/// The clock that the sleepers share.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// The sleepers by the time at which they wake, first come first served.
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    count: u64,
    threads: Vec<Option<Thread>>,
    running: usize,
    is_over: bool,
}

/// One thread's share in the clock. When it is dropped, the next thread runs.
#[derive(Debug)]
pub struct Sleeper {
    clock: Clock,
    id: usize,
}

/// The error of a sleep after the end of the simulation. A thread that gets it ends.
#[derive(Debug)]
pub struct Finished;

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while the clock is held")
    }

    /// Time since the simulation's start.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// A sleeper that first wakes at `start`. The first sleeper of a clock is running.
    pub fn sleeper(&self, start: Duration) -> Sleeper {
        let mut state = self.state();
        let id = state.threads.len();
        state.threads.push((id == 0).then(thread::current));
        if id > 0 {
            state.add(start, id);
        }
        Sleeper {
            clock: self.clone(),
            id,
        }
    }
}

impl State {
    fn add(&mut self, time: Duration, id: usize) {
        self.count += 1;
        self.queue.push(Reverse((time, self.count, id)));
    }

    /// Lets the next sleeper run.
    fn wake_next(&mut self) {
        if let Some(Reverse((time, _, id))) = self.queue.pop() {
            self.now = self.now.max(time);
            self.running = id;
            if let Some(thread) = &self.threads[id] {
                thread.unpark();
            }
        }
    }
}

impl Sleeper {
    /// Waits for this sleeper's first turn; its thread calls this before anything else.
    pub fn begin(&self) -> Result<(), Finished> {
        self.clock.state().threads[self.id] = Some(thread::current());
        self.wait()
    }

    /// Sleeps until a point in virtual time.
    pub fn until(&self, time: Duration) -> Result<(), Finished> {
        {
            let mut state = self.clock.state();
            state.add(time, self.id);
            state.wake_next();
        }
        self.wait()
    }

    /// Sleeps.
    pub fn sleep(&self, time: Duration) -> Result<(), Finished> {
        self.until(self.clock.now() + time)
    }

    /// Ends the simulation: every sleeper's next turn returns [`Finished`].
    pub fn finish(&self) {
        self.clock.state().is_over = true;
        // The longest sleep, so that every other sleeper has had that turn.
        let _ = self.until(Duration::MAX);
    }

    /// Time since the simulation's start.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    fn wait(&self) -> Result<(), Finished> {
        loop {
            let state = self.clock.state();
            if state.running == self.id {
                return if state.is_over { Err(Finished) } else { Ok(()) };
            }
            drop(state);
            thread::park();
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.state().wake_next();
    }
}
