//! Whatever engine carries out batches, they do the same.
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "what the disk did is looked at from outside")]

use std::sync::Arc;

use pinstone_disk::{
    Batch, Bytes, Disk, DiskExt as _, Epoch, File, FileName, IoEngine, IoOptions, LogKind, Op,
    OpenMode, Operation, Ordinal, StdDisk,
};
use proptest::prelude::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tempfile::TempDir;

const ENGINES: [IoEngine; 2] = [IoEngine::Positioned, IoEngine::Auto];

fn disk(io: IoEngine) -> (TempDir, Arc<StdDisk>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = StdDisk::open(directory.path(), IoOptions { engine: io, mmap: None }).unwrap();
    (directory, disk)
}

fn file(disk: &StdDisk, ordinal: u32) -> Arc<dyn File> {
    disk.open(name(ordinal), OpenMode::Create).unwrap()
}

fn name(ordinal: u32) -> FileName {
    FileName::Segment { log: LogKind::Blob, ordinal: Ordinal(ordinal), epoch: Epoch::FIRST }
}

fn read(file: &Arc<dyn File>, offset_bytes: u64, len_bytes: usize) -> Op {
    Op::Read { file: Arc::clone(file), offset_bytes, len_bytes }
}

fn write(file: &Arc<dyn File>, offset_bytes: u64, data: impl Into<Bytes>) -> Op {
    Op::Write { file: Arc::clone(file), offset_bytes, data: data.into() }
}

fn sync(file: &Arc<dyn File>) -> Op {
    Op::Sync { file: Arc::clone(file) }
}

/// One operation of a chain, on that chain's file.
#[derive(Clone, Debug)]
enum Step {
    Read(u16, u16),
    Write(u16, Vec<u8>),
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..9000_u16, 0..9000_u16).prop_map(|(at, len)| Step::Read(at, len)),
        8 => (0..9000_u16, prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(at, data)| Step::Write(at, data)),
        1 => Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each chain on a file of its own, against a plain model, several batches one after the other.
    #[test]
    fn batches_do_what_a_model_does(
        batches in prop::collection::vec(prop::collection::vec(prop::collection::vec(step(), 0..5), 0..80), 1..3),
    ) {
        for io in ENGINES {
            let (_directory, disk) = disk(io);
            let files: Vec<_> = (1..=80).map(|ordinal| file(&disk, ordinal)).collect();
            let mut model: Vec<Vec<u8>> = vec![Vec::new(); files.len()];
            for batch in &batches {
                let mut wanted = Vec::new();
                let mut chains = Vec::new();
                for (at, steps) in batch.iter().enumerate() {
                    let (file, bytes) = (&files[at], &mut model[at]);
                    let (mut chain, mut reads) = (Vec::new(), Vec::new());
                    for step in steps {
                        match step {
                            Step::Read(offset, len) => {
                                chain.push(read(file, u64::from(*offset), usize::from(*len)));
                                let start = bytes.len().min(usize::from(*offset));
                                let end = bytes.len().min(start + usize::from(*len));
                                reads.push(Bytes::copy_from_slice(&bytes[start..end]));
                            }
                            Step::Write(offset, data) => {
                                chain.push(write(file, u64::from(*offset), data.clone()));
                                let (start, end) = (usize::from(*offset), usize::from(*offset) + data.len());
                                if !data.is_empty() && bytes.len() < end {
                                    bytes.resize(end, 0);
                                }
                                if !data.is_empty() {
                                    bytes[start..end].copy_from_slice(data);
                                }
                            }
                            Step::Sync => chain.push(sync(file)),
                        }
                    }
                    chains.push(chain);
                    wanted.push(reads);
                }
                let answers = disk.run(Batch { chains });
                let found: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}

#[test]
fn a_failure_ends_its_chain_alone() {
    for io in ENGINES {
        let (directory, disk) = disk(io);
        drop([file(&disk, 1), file(&disk, 2)]);
        let only_read = disk.open(name(1), OpenMode::Read).unwrap();
        let whole = disk.open(name(2), OpenMode::Write).unwrap();
        let chains = vec![
            vec![write(&whole, 0, "first"), sync(&whole)],
            vec![
                sync(&only_read),
                write(&only_read, 7, "refused"),
                write(&whole, 100, "not begun"),
            ],
            vec![read(&whole, 1 << 40, 10)],
        ];
        let answers = disk.run(Batch { chains });
        assert_eq!(answers[0].as_ref().unwrap().len(), 0);
        let error = answers[1].as_ref().unwrap_err();
        assert_eq!((error.operation, error.offset_bytes), (Operation::Write, Some(7)));
        assert_eq!(error.source.raw_os_error(), Some(9), "EBADF");
        assert_eq!(answers[2].as_ref().unwrap(), &[Bytes::new()]);
        assert_eq!(std::fs::read(directory.path().join(name(2).to_string())).unwrap(), b"first");
    }
}

#[test]
fn more_threads_than_rings_each_get_their_own() {
    for io in ENGINES {
        let (_directory, disk) = disk(io);
        let files: Vec<_> = (1..=40).map(|ordinal| file(&disk, ordinal)).collect();
        let threads: Vec<_> = files
            .into_iter()
            .enumerate()
            .map(|(number, file)| {
                let disk = Arc::clone(&disk);
                pinstone_disk::env::spawn("writer", move || {
                    for round in 0..50_u64 {
                        let part = |at: u64| Bytes::from(format!("{number:04}{:04}", round + at));
                        let chains =
                            (0..8).map(|at| vec![write(&file, 8 * at, part(at))]).collect();
                        assert!(disk.run(Batch { chains }).iter().all(Result::is_ok));
                        let chains = (0..8).map(|at| vec![read(&file, 8 * at, 8)]).collect();
                        for (at, read) in disk.run(Batch { chains }).into_iter().enumerate() {
                            assert_eq!(read.unwrap(), [part(at as u64)]);
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// Opens a disk in a thread whose system call `call` is refused with `errno`.
fn refused(call: i64, errno: i32, io: IoEngine) -> Result<(&'static str, Bytes), String> {
    let opened = move || {
        let directory = tempfile::tempdir().unwrap();
        let rules = [(call, Vec::new())].into_iter().collect();
        let refuse = SeccompAction::Errno(errno.cast_unsigned());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        let disk = StdDisk::open(directory.path(), IoOptions { engine: io, mmap: None })
            .map_err(|error| format!("{error}: {}", error.source))?;
        let file = file(&disk, 1);
        let chains = (0..3).map(|at| vec![write(&file, 2 * at, "ab")]).collect();
        assert!(disk.run(Batch { chains }).iter().all(Result::is_ok));
        Ok((disk.engine(), disk.read(&file, 0, 9).unwrap()))
    };
    pinstone_disk::env::spawn("refused", opened).unwrap().join().unwrap()
}

#[test]
fn positioned_calls_do_it_where_io_uring_is_refused() {
    for (call, errno) in [
        (libc::SYS_io_uring_setup, libc::EPERM),
        (libc::SYS_io_uring_setup, libc::ENOSYS),
        (libc::SYS_io_uring_setup, libc::ENOMEM),
        (libc::SYS_io_uring_enter, libc::EPERM),
        (libc::SYS_io_uring_enter, libc::EACCES),
    ] {
        let found = refused(call, errno, IoEngine::Auto).unwrap();
        assert_eq!(found, ("positioned", Bytes::from_static(b"ababab")));
        let error = refused(call, errno, IoEngine::Uring).unwrap_err();
        let why = std::io::Error::from_raw_os_error(errno).to_string();
        assert_eq!(error, format!("choosing the I/O engine by io_uring: {why}"));
    }
}
