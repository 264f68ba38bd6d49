//! The policy numbers of the project, each with its reason. A limit that comes from a protocol, the kernel or
//! an API stands beside the code that speaks it.

use std::time::Duration;

// The schedule.

/// The longest UPDATE_INTERVAL, and so the longest time between two rounds: each node publishes a heartbeat once
/// a minute.
pub const MAX_INTERVAL: Duration = Duration::from_mins(1);
/// The interval grows by one UPDATE_INTERVAL for each of these many nodes with an entry: that bounds the requests
/// of 300 nodes to 30 a second.
pub const NODES_PER_INTERVAL: usize = 25;
/// A quiet round adds up to this part of the interval, so that nodes do not stay in step.
pub const JITTER: f64 = 0.1;
/// This many address changes get a reaction at once, then one in each [`BETWEEN_REACTIONS`].
pub const REACTIONS_AT_ONCE: u32 = 5;
/// See [`REACTIONS_AT_ONCE`].
pub const BETWEEN_REACTIONS: Duration = Duration::from_secs(1);
/// For each node that may see the same change, reactions to it are spread by this much: an API server takes some
/// hundred writes of one object a second.
pub const SPREAD: Duration = Duration::from_millis(2);
/// A round that reacts to a change of address leaves the reports to another one, this much later: a renumbering often
/// comes in two steps, and under the pod's CPU limit the second one would pay for the reports about the first.
pub const STILL: Duration = Duration::from_millis(500);
/// The longest pause after a conflict with another writer.
pub const SOON: Duration = Duration::from_secs(1);
/// This many rounds in a row that end in a conflict are normal where many nodes write; each further one doubles
/// the pause.
pub const PATIENT_ROUNDS: u32 = 5;
/// The pause after the first failure; each further one doubles it.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
pub const MAX_BACKOFF: Duration = Duration::from_mins(1);

// The loop.

/// Address changes come in bursts, most of them on other interfaces: this many looks at once, then one in each
/// [`BETWEEN_LOOKS`].
pub const LOOKS_AT_ONCE: u32 = 5;
/// See [`LOOKS_AT_ONCE`].
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// An API server that starts refuses everything until its authorizer has read the roles. A request that is refused for
/// this long is a problem.
pub const STARTUP_TIME: Duration = Duration::from_secs(10);
/// An API server that has just got a CRD takes about a second to serve it. A CRD that is not served for this long is a
/// problem.
pub const CRD_TIME: Duration = Duration::from_secs(2);
/// The pause until k6u asks again for a CRD that is not served yet.
pub const STARTUP_PAUSE: Duration = Duration::from_millis(200);
/// `k6u once` gives up after this many rounds in which other writers conflict, or CRDs are not served yet.
pub const MAX_ROUNDS_OF_ONCE: u32 = 60;

// The round.

/// A round starts again at most this many times while other writers change the objects, then leaves the rest to the
/// next round.
pub const MAX_PASSES: usize = 3;
/// Requests that read targets begin within this time of a round, those that write them within the same time after that,
/// and those that report within the same time again: targets that hang cannot keep k6u from publishing. The next round
/// begins with the targets that were not reached.
pub const STEP_TIME: Duration = Duration::from_millis(2500);
/// Reading one target takes this long at most.
pub const MAX_READ: Duration = Duration::from_secs(5);
/// After this many consecutive conflicts an object is treated as refused: no other writer is that frequent.
pub const MAX_CONFLICTS: u32 = 20;
/// Labels of a Node change rarely: they are read again after this time.
pub const LABELS_FRESH: Duration = Duration::from_mins(5);

/// All targets together hold at most this many items. An item takes 33 bytes in the plan, and as many in the list that
/// was read, so the pod's 16 MiB suffice for all that nodes may publish. A target that does not fit keeps its list;
/// older configs come first.
pub const MAX_PLANNED: usize = 32_768;

// Agreement.

/// A node publishes again after this time, even if nothing has changed.
pub const HEARTBEAT: Duration = Duration::from_mins(1);
/// A node whose entry has stood still for this long is silent: its entry is removed.
pub const SILENT_AFTER: Duration = Duration::from_mins(5);
/// A prefix that only a vanished entry had stays in the lists for this long: the longest backoff of the node that has
/// to publish it again, and a round.
pub const LINGER: Duration = Duration::from_secs(75);
/// An entry that stood still for this long before it vanished was removed because its node is silent. Watchers
/// count at different times, by an interval and a heartbeat at most.
pub const NEARLY_SILENT: Duration = Duration::from_secs(225);

// Reports.

/// A target that another writer changes this many times within [`CONTESTED_WITHIN`] is reported.
pub const CONTESTED_AFTER: usize = 3;
/// See [`CONTESTED_AFTER`].
pub const CONTESTED_WITHIN: Duration = Duration::from_mins(10);
/// This many Events wait for the next round where they cannot be sent: the oldest are dropped, the conditions say the
/// same.
pub const MAX_WAITING_EVENTS: usize = 64;
