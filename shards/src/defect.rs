//! Seeded defects: the obvious wrong versions of this crate, to prove that the tests notice them.
//!
//! Each stands as one condition at the place where it would be written. Without the feature
//! `defects`, which nothing enables but the simulator's own tests, [`is`] is a constant `false` and
//! the wrong version is never compiled in; with it, the build refuses to be a release. One defect
//! is active per thread, so that tests play several at a time, each on a thread of its own.
//!
//! `every_seeded_defect_is_caught` in `tests/sim/defects.rs` says how each of them shows.

#[cfg(all(feature = "defects", not(debug_assertions)))]
compile_error!("seeded defects are for tests and never part of a release");

/// One way in which an obvious version of the engine fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Rounds of reads share one context, so that a late confirmation of one confirms another.
    ReusedReadContext,
    /// Reads rest on raft-rs' own lease, which counts ticks: a paused process counts none.
    LeaseOfRaftRs,
    /// A leader goes on using its lease after it has asked another to take over.
    LeaseAfterTimeoutNow,
    /// After a pause the ticks that were missed are made up for in a burst.
    TickBurst,
    /// A replica that has lost its memory returns under its old Raft id.
    OldIdAfterWipe,
    /// A write is acknowledged once it is proposed.
    ReplyBeforeCommit,
    /// A snapshot names an index behind its content: what follows it is applied once more.
    ApplyTwiceAfterSnapshot,
    /// A follower makes room when it sees fit, and not where the log makes it.
    EvictionOnFollowersOwn,
    /// A read moves its key in the order of use where it happens.
    RecencyMovedByReads,
    /// Entries expire by each node's own clock instead of the stamp in the log.
    ExpiryByLocalClock,
    /// Two replies of one entry go to each other's requests.
    SwappedReplies,
    /// Commands of an entry are reported as not done when it was merely truncated here.
    NotDoneForTruncated,
    /// A read answers that a key is absent by the leader's running clock alone.
    ExpiryByRunningClock,
    /// A shard is formed by answers that may not hold any more.
    FormedOnStaleEmpty,
    /// The commit of a write confirms reads that came in after it was proposed.
    ReadConfirmedByEarlierWrite,
    /// A newcomer waits for ever to be taken into a shard that nobody knows of any more.
    ForsakenForEver,
    /// A new leader's clock does not go on from the stamps in its log that are not applied yet.
    NewLeaderByOwnClock,
    /// After a move to another number of cores, what is left of the old logs is read again.
    OldLayoutReadAgain,
    /// What waits for the log to be durable does not wait.
    SkippedSync,
    /// A replica that comes back with its log answers candidates at once.
    VoteRightAfterRestart,
    /// Frames of the log are believed without their checksum.
    IgnoredChecksum,
    /// A store restored from a snapshot hashes keys with another secret than the other replicas.
    KeySecretNotRestored,
    /// A store restored from a snapshot has forgotten in which order its entries were used.
    LruOrderNotRestored,
    /// A follower answers reads before it has applied what the leader's answer names.
    FollowerReadsAtOnce,
    /// A leader answers the questions of followers without a lease and without a round.
    AnswersWithoutProof,
    /// A leader with a lease reads its store as it is, whatever is committed.
    LeaseReadOnLaggingStore,
    /// A leader elected again goes on from its last stamp as if no time had passed, and others
    /// overlook it.
    NoTimeSinceOwnStamp,
    /// A leader whose log cannot be written goes on sending heartbeats.
    HeartbeatsWhilePoisoned,
}

/// Whether the defect is active on this thread.
#[cfg(feature = "defects")]
#[inline]
pub fn is(defect: Defect) -> bool {
    ACTIVE.get() == Some(defect)
}

/// Whether the defect is active: never.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub(crate) const fn is(_: Defect) -> bool {
    false
}

#[cfg(feature = "defects")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Makes a defect the one that is active on this thread, or none.
#[cfg(feature = "defects")]
pub fn activate(defect: Option<Defect>) {
    ACTIVE.set(defect);
}
