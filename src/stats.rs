//! Counters. Every byte, frame, message and command that is dropped has a reason here.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows; shared by reference.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why something was dropped. [`DropReason::as_str`] is the name in the stats topics, metrics and logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant),*];

            /// The name, `snake_case`.
            pub fn as_str(self) -> &'static str {
                match self { $(DropReason::$variant => $name),* }
            }
        }
    };
}

reasons! {
    /// A frame over `max_length`, either way.
    TooLong => "too_long",
    /// An unfinished frame at disconnect.
    Partial => "partial",
    /// Bytes outside a frame: between `end` and `start`, or what a broken SLIP or COBS frame left.
    OutsideFrame => "outside_frame",
    /// A frame that the framing could not decode, or that cannot be encoded in it.
    BadFrame => "bad_frame",
    /// A checksum that did not fit.
    Checksum => "checksum",
    /// Bytes that came during `settle`.
    Settle => "settle",
    /// A frame equal to the one just written, with `echo = "drop"`.
    Echo => "echo",
    /// No publish rule took the frame.
    NoRule => "no_rule",
    /// A rule took the frame, but it could not be parsed as the rule says.
    Parse => "parse",
    /// A placeholder named a field that the frame did not have.
    MissingField => "missing_field",
    /// `on_change`: the payload was that of the last message.
    Unchanged => "unchanged",
    /// `min_interval`: a newer message took its place.
    Superseded => "superseded",
    /// What a rule made is not a topic name.
    BadTopic => "bad_topic",
    /// A topic that begins with `$` or lies below the gateway's own.
    Reserved => "reserved",
    /// The broker would not take it (too large, stopping).
    Refused => "refused",
    /// `acl_file` does not allow it.
    Denied => "denied",
    /// A queue was full.
    QueueFull => "queue_full",
    /// A command came while the device was offline and `while_offline` is `drop`.
    Offline => "offline",
    /// A command waited longer than `max_age`.
    Expired => "expired",
    /// A retained command, with `retained = "ignore"`.
    Retained => "retained",
    /// A command that a subscribe rule could not decode or render.
    Render => "render",
    /// A command for a `{peer}` that is not connected.
    NoPeer => "no_peer",
    /// Writing to the device failed or took too long.
    WriteFailed => "write_failed",
    /// Still queued when the gateway stopped.
    Stopped => "stopped",
    /// In hand when the device panicked: the frame or message that made it panic, and frames that were read behind it.
    Panicked => "panicked",
}

/// Drops by reason.
#[derive(Debug)]
pub struct Drops([Counter; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Drops {
        Drops(std::array::from_fn(|_| Counter::default()))
    }
}

impl Drops {
    /// Counts `n` drops for `reason`.
    pub fn add(&self, reason: DropReason, n: u64) {
        self.0[reason as usize].add(n);
    }

    /// Counts one drop for `reason`.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Drops so far for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }

    /// The reasons that have happened, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, n)| n > 0)
    }
}

/// What one device has counted since the gateway started, or since a reload added it; a restart of the device changes
/// nothing.
///
/// They reconcile: `frames_in` is `published` and what was dropped after the framing, unless several rules take a frame
/// or `each_field` makes several messages of it; `commands` is `frames_out`, what waits, and what was dropped on the way
/// down.
#[derive(Debug, Default)]
pub struct DeviceStats {
    /// Bytes read from the device.
    pub bytes_in: Counter,
    /// Bytes written to the device.
    pub bytes_out: Counter,
    /// Frames read from the device.
    pub frames_in: Counter,
    /// Frames written to the device.
    pub frames_out: Counter,
    /// Messages published from its frames.
    pub published: Counter,
    /// Commands for it, from topics and from `gatepost send`. One that becomes several frames, or goes to several links
    /// of a `tcp_server`, counts once for each.
    pub commands: Counter,
    /// Times the link came up again after the first.
    pub reconnects: Counter,
    /// Connections of a TCP server that `allow` or `max_connections` kept out.
    pub refused_peers: Counter,
    /// Panics of its tasks, after each of which it was started again: bugs.
    pub panics: Counter,
    /// What was dropped, by reason. Frames, messages and commands count 1 each; bytes outside frames count as bytes.
    pub dropped: Drops,
}
