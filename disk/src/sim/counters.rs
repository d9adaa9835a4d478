//! How often each effect occurred: those of faults first, then those of crashes.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// How often each effect occurred, so that a harness can prove that it saw them. A disk
        /// counts its own life: [`SimDisk::after_crash`](super::SimDisk::after_crash) starts with what the crash did.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct SimCounters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl std::ops::AddAssign for SimCounters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Operations that failed with EIO, failed syncs included.
    eio,
    /// Operations that failed for lack of space, by fault or by capacity.
    enospc,
    /// Operations that failed for lack of descriptors.
    emfile,
    /// Reads that failed for want of memory.
    enomem,
    /// Writes of a part only, by fault or by capacity.
    short_writes,
    /// Reads of a part only, by fault.
    short_reads,
    /// Operations that were interrupted.
    interrupts,
    /// Syncs that failed and called clean what they had not written.
    failed_syncs,
    /// Sectors that those syncs called clean.
    sectors_claimed,
    /// Of those, the ones that turned back when caches were dropped.
    sectors_reverted,
    /// Of those, the ones that were lost by the crash.
    sectors_forgotten,
    /// Crashes.
    crashes,
    /// Writes that had partly happened when the crash came.
    torn_writes,
    /// Batches whose chains did not run in their order.
    batches_reordered,
    /// Unsynced sectors that a crash left as they were.
    sectors_old,
    /// Unsynced sectors that a crash kept.
    sectors_new,
    /// Unsynced sectors that a crash left as they were between two writes.
    sectors_between,
    /// Unsynced sectors of which a crash left zeros.
    sectors_zero,
    /// Unsynced sectors of which a crash left garbage.
    sectors_garbage,
    /// Unsynced lengths that a crash left as they were.
    lengths_old,
    /// Unsynced lengths that a crash kept.
    lengths_new,
    /// Unsynced lengths that a crash left at another one.
    lengths_between,
    /// Unsynced changes of names that a crash kept.
    names_kept,
    /// Unsynced changes of names that a crash lost.
    names_lost,
    /// Of the renames kept, those that left the old name too.
    renames_halved,
}
