//! What all logs of a store share while one writer has it open.

use std::sync::Arc;

use pinstone_disk::{Disk, Epoch};

use crate::frame::SyncedUpto;
use crate::poison::Poison;
use crate::record::StoreSeed;

/// An open for writing, as its logs see it. Clones are the same writer.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Where the logs' files are.
    pub disk: Arc<dyn Disk>,
    /// How far each log is known durable: every log testifies of all three.
    pub synced: Arc<SyncedUpto>,
    /// Whether writing has ended: for one log, it has for all.
    pub poison: Arc<Poison>,
    /// The writer's epoch, which its frames bear.
    pub epoch: Epoch,
    /// Begins the checksums of the store's records.
    pub store: StoreSeed,
}

impl Writer {
    /// A writer of this epoch, to which nothing is known durable yet.
    pub fn new(disk: Arc<dyn Disk>, epoch: Epoch, store: StoreSeed) -> Self {
        Self { disk, synced: Arc::default(), poison: Arc::default(), epoch, store }
    }
}
