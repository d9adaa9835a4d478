//! Random workloads beside a model: reads see all that was written, crashes spare what is durable,
//! and the same calls give the same disk.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// One step of a random workload on two files.
#[derive(Clone, Debug)]
enum Step {
    Write { which: usize, offset: usize, len: usize, fill: u8 },
    SetLen { which: usize, len: usize },
    Allocate { which: usize, len: usize },
    Sync { which: usize },
    FailSync { which: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..3000usize, 1..1500usize, 1..=255u8)
            .prop_map(|(which, offset, len, fill)| Step::Write { which, offset, len, fill }),
        2 => (0..2usize, 0..4000usize).prop_map(|(which, len)| Step::SetLen { which, len }),
        1 => (0..2usize, 0..6000usize).prop_map(|(which, len)| Step::Allocate { which, len }),
        2 => (0..2usize).prop_map(|which| Step::Sync { which }),
        1 => (0..2usize).prop_map(|which| Step::FailSync { which }),
        1 => Just(Step::Reopen),
    ]
}

/// What a file must read, and what of it must survive: the bytes as of the last sync, but for
/// the sectors in which any were written or cut since.
#[derive(Clone, Debug, Default)]
struct Model {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// For each byte up to the greatest length since the sync, whether it may be lost.
    at_risk: Vec<bool>,
    shortest_since: Option<usize>,
    failed: bool,
}

impl Model {
    /// Whatever shares a sector with these bytes may be lost with them.
    fn risk(&mut self, from: usize, to: usize) {
        let (from, to) = (from / 512 * 512, to.next_multiple_of(512));
        self.at_risk.resize(self.at_risk.len().max(to), false);
        self.at_risk[from..to].fill(true);
    }

    fn set_len(&mut self, len: usize) {
        if len < self.visible.len() {
            self.risk(len, self.visible.len());
        }
        self.visible.resize(len, 0);
        let shortest = self.shortest_since.unwrap_or(self.durable.len()).min(len);
        self.shortest_since = Some(shortest);
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.visible.len() {
            self.set_len(end);
        }
        self.visible[offset..end].copy_from_slice(data);
        self.risk(offset, end);
    }

    fn sync(&mut self) {
        if !self.failed {
            *self = Self {
                visible: self.visible.clone(),
                durable: self.visible.clone(),
                ..Self::default()
            };
        }
    }

    /// What the bytes that are not at risk must be.
    fn check(&self, held: &[u8]) {
        let sure = self.shortest_since.unwrap_or(self.durable.len()).min(self.durable.len());
        assert!(held.len() >= sure, "{} < {sure}", held.len());
        for (at, durable) in self.durable.iter().enumerate().take(held.len()) {
            if !self.at_risk.get(at).copied().unwrap_or(false) {
                assert_eq!(held[at], *durable, "at {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_all_that_was_written_and_crashes_spare_what_is_durable(
        seed: u64,
        steps in vec(step(), 1..30),
    ) {
        const NAMES: [FileName; 2] = [A, B];
        let mut disk = SimDisk::new(seed);
        let mut files = NAMES.map(|name| create(&disk, name));
        disk.sync_dir().unwrap();
        let mut models = [Model::default(), Model::default()];
        for step in steps {
            match step {
                Step::Write { which, offset, len, fill } => {
                    let data = vec![fill; len];
                    write(&files[which], offset as u64, &data);
                    models[which].write(offset, &data);
                }
                Step::SetLen { which, len } => {
                    files[which].set_len(len as u64).unwrap();
                    models[which].set_len(len);
                }
                Step::Allocate { which, len } => {
                    files[which].allocate(len as u64).unwrap();
                    let len = models[which].visible.len().max(len);
                    models[which].set_len(len);
                }
                Step::Sync { which } => {
                    disk.sync(&files[which]).unwrap();
                    models[which].sync();
                }
                Step::FailSync { which } => {
                    disk.fail_at(disk.op_count() + 1, Fault::SyncFailsThenClean);
                    disk.sync(&files[which]).unwrap_err();
                    models[which].failed = true;
                }
                Step::Reopen => {
                    disk = disk.clean_reopen();
                    files = NAMES.map(|name| disk.open(name, OpenMode::Write).unwrap());
                }
            }
            for (name, model) in NAMES.into_iter().zip(&models) {
                assert_eq!(bytes(&disk, name).unwrap(), model.visible);
                for seed in 0..3 {
                    let after = disk.after_crash(CrashState::Random(seed));
                    let held = bytes(&after, name).unwrap();
                    model.check(&held);
                    assert_eq!(after.unsynced(), 0);
                    let again = after.after_crash(CrashState::Random(seed));
                    assert_eq!(bytes(&again, name).unwrap(), held);
                }
            }
        }
        let everything = disk.after_crash(CrashState::Everything);
        for (name, model) in NAMES.into_iter().zip(&models).filter(|(_, model)| !model.failed) {
            assert_eq!(bytes(&everything, name).unwrap(), model.visible);
            let nothing = disk.after_crash(CrashState::Nothing);
            assert_eq!(bytes(&nothing, name).unwrap(), model.durable);
        }
    }

    #[test]
    fn the_same_seed_and_calls_give_the_same_disk(seed: u64, steps in vec(step(), 1..20)) {
        let run = || {
            let disk = SimDisk::new(seed);
            disk.fail_from(5, Fault::ShortWrite);
            let files = [create(&disk, A), create(&disk, B)];
            disk.crash_at(15);
            for step in &steps {
                let _ = match *step {
                    Step::Write { which, offset, len, fill } => disk
                        .write(&files[which], offset as u64, vec![fill; len].into()),
                    Step::SetLen { which, len } => files[which].set_len(len as u64),
                    Step::Allocate { which, len } => files[which].allocate(len as u64),
                    Step::Sync { which } | Step::FailSync { which } => disk.sync(&files[which]),
                    Step::Reopen => disk.sync_dir(),
                };
            }
            let state = disk.after_crash(CrashState::Random(seed));
            let held = [A, B].map(|name| bytes(&state, name));
            (disk.trace(), disk.counters(), state.counters(), held)
        };
        assert_eq!(run(), run());
    }
}
