//! A thread that carries out chains beside the caller's own, so that the chains of a batch are in
//! flight together under positioned I/O too.
//!
//! - H1: a chain is handed over only to a thread that waits for one; otherwise the caller carries
//!   it out, so no chain waits behind another batch's.
//! - H2: the thread starts with the first batch that has a use for it, and ends with its disk.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;

use crate::env;
use crate::error::DiskError;
use crate::vfs::{Batch, Op, run_chain};

type Answer = Result<Vec<Bytes>, DiskError>;

/// The thread, once it is needed.
#[derive(Debug, Default)]
pub(crate) struct Helper {
    /// `None` if the machine had no thread to give.
    jobs: OnceLock<Option<SyncSender<Job>>>,
}

struct Job {
    chain: Vec<Op>,
    answer: SyncSender<Answer>,
}

impl Helper {
    /// Carries out all chains, up to two at once.
    pub(crate) fn run(&self, batch: Batch) -> Vec<Answer> {
        let mut chains = batch.chains;
        if chains.len() < 2 {
            return chains.into_iter().map(run_chain).collect();
        }
        let last = chains.pop().expect("there are two at least");
        let last = self.hand_over(last);
        let mut answers: Vec<_> = chains.into_iter().map(run_chain).collect();
        answers.push(match last {
            Ok(answer) => answer.recv().expect("the thread answers before it waits again"),
            Err(chain) => run_chain(chain),
        });
        answers
    }

    /// Gives the chain to the thread, or back if it has another.
    #[expect(
        clippy::disallowed_methods,
        reason = "the thread is this file's, below all that is explored"
    )]
    fn hand_over(&self, chain: Vec<Op>) -> Result<Receiver<Answer>, Vec<Op>> {
        let Some(jobs) = self.jobs.get_or_init(start) else { return Err(chain) };
        let (answer, receiver) = sync_channel(1);
        // Without a buffer a job is taken only by a thread that waits for one.
        jobs.try_send(Job { chain, answer }).map(|()| receiver).map_err(|refused| match refused {
            std::sync::mpsc::TrySendError::Full(job)
            | std::sync::mpsc::TrySendError::Disconnected(job) => job.chain,
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the thread is this file's, below all that is explored"
)]
fn start() -> Option<SyncSender<Job>> {
    let (jobs, receiver) = sync_channel::<Job>(0);
    let work = move || {
        for Job { chain, answer } in receiver {
            // A caller that is gone has no use for the answer.
            let _ = answer.send(run_chain(chain));
        }
    };
    env::spawn("pinstone-io", work).ok().map(|_detached| jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Operation;
    use crate::sim::SimDisk;
    use crate::{Disk, Epoch, FileName, LogKind, OpenMode, Ordinal};

    fn write(disk: &dyn Disk, ordinal: u32) -> Vec<Op> {
        let name = FileName::Segment {
            log: LogKind::Blob,
            ordinal: Ordinal(ordinal),
            epoch: Epoch::FIRST,
        };
        let file = disk.open(name, OpenMode::Create).unwrap();
        vec![
            Op::Write { file: file.clone(), offset_bytes: 0, data: Bytes::from_static(b"abc") },
            Op::Read { file: file.clone(), offset_bytes: 1, len_bytes: ordinal as usize },
            Op::Sync { file },
        ]
    }

    #[test]
    fn every_chain_answers_in_its_place() {
        let disk = SimDisk::new(1);
        let helper = Helper::default();
        for first in [1, 5, 9] {
            let chains = (first..first + 3).map(|ordinal| write(&*disk, ordinal)).collect();
            let answers = helper.run(Batch { chains });
            let read = answers.into_iter().map(|answer| answer.unwrap()[0].len());
            let wanted = (first..first + 3).map(|ordinal| ordinal.min(2) as usize);
            assert!(read.eq(wanted));
        }
        assert!(helper.run(Batch::default()).is_empty());
    }

    #[test]
    fn a_failure_stays_with_its_chain() {
        let disk = SimDisk::new(1);
        let helper = Helper::default();
        let mut chains: Vec<_> = (1..3).map(|ordinal| write(&*disk, ordinal)).collect();
        let name =
            FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
        let file = disk.open(name, OpenMode::Read).unwrap();
        chains.push(vec![Op::Write { file, offset_bytes: 0, data: Bytes::from_static(b"abc") }]);
        let answers = helper.run(Batch { chains });
        assert!(answers[0].is_ok() && answers[1].is_ok());
        assert_eq!(answers[2].as_ref().unwrap_err().operation, Operation::Write);
    }
}
