//! What the kernel refuses is done without it. Where that takes a limit on threads, in a process of its own, since
//! the limit is the whole process's; root is beyond it, and there becomes somebody else.

#![expect(
    clippy::disallowed_methods,
    reason = "a thread that may wait for ever is waited for only so long"
)]

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc::sync_channel;

use rustix::process::{Resource, Rlimit, Uid, getrlimit, setrlimit};

use super::*;
use crate::env::AtomicU64;
use crate::io_engine::{Engine, IoEngine};
use crate::{FileName, std_disk};

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

const AGAIN: i32 = -Errno::AGAIN.raw_os_error();
const CANCELED: i32 = -Errno::CANCELED.raw_os_error();
const INTR: i32 = -Errno::INTR.raw_os_error();
const IO: i32 = -Errno::IO.raw_os_error();

/// A file in memory, of which a ring's operations all take a thread of the kernel's. Counts the syncs that are
/// made by calls.
#[derive(Debug)]
struct Counted {
    file: Arc<dyn File>,
    sync_count: AtomicU64,
}

impl Counted {
    fn new() -> Arc<Self> {
        let file = std_disk::file_in_memory(b"0123456789").unwrap();
        Arc::new(Self { file, sync_count: AtomicU64::new(0) })
    }

    fn sync_count(&self) -> u64 {
        self.sync_count.load(Ordering::Relaxed)
    }
}

impl File for Counted {
    fn name(&self) -> FileName {
        self.file.name()
    }
    fn len_bytes(&self) -> Result<u64, DiskError> {
        self.file.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(len_bytes)
    }
    fn allocate(&self, len_bytes: u64) -> Result<(), DiskError> {
        self.file.allocate(len_bytes)
    }
    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.file.read_at(offset_bytes, buffer)
    }
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        self.file.write_at(offset_bytes, data)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.sync_count.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}

fn read(file: &Arc<Counted>, offset_bytes: u64, len_bytes: usize) -> Op {
    Op::Read { file: Arc::clone(file) as Arc<dyn File>, offset_bytes, len_bytes }
}

fn write(file: &Arc<Counted>, data: &'static str) -> Op {
    Op::Write { file: Arc::clone(file) as Arc<dyn File>, offset_bytes: 0, data: data.into() }
}

fn sync(file: &Arc<Counted>) -> Op {
    Op::Sync { file: Arc::clone(file) as Arc<dyn File> }
}

/// The rings of a kernel that lets us have some.
fn rings() -> Option<Rings> {
    let rings = Rings::probe();
    if let Err(error) = &rings {
        eprintln!("io_uring is refused here: {error}");
    }
    rings.ok()
}

// What a chain makes of answers.

/// A flight that was submitted.
fn flight(chain: Vec<Op>) -> Flight {
    let mut flight = Flight::new(chain);
    let _submitted = flight.entries(0).count();
    flight
}

#[test]
fn what_was_interrupted_is_submitted_again() {
    let file = Counted::new();
    let mut flight = flight(vec![read(&file, 0, 4)]);
    for _ in 0..10 * AGAIN_MAX {
        assert_eq!(flight.completed(false, INTR), Now::Submit);
    }
    assert_eq!(flight.answer().unwrap(), ["0123"]);
}

#[test]
fn what_the_kernel_is_short_of_memory_for_is_submitted_again_a_few_times() {
    let file = Counted::new();
    let mut flight = flight(vec![write(&file, "ab"), read(&file, 0, 4)]);
    for _ in 0..AGAIN_MAX {
        assert_eq!(flight.completed(false, AGAIN), Now::Submit);
    }
    assert_eq!(flight.completed(false, AGAIN), Now::Refused(Errno::AGAIN));
    assert_eq!(flight.answer().unwrap(), ["ab23"]);
}

#[test]
fn what_there_is_no_thread_for_is_not_submitted_again_and_goes_on_where_it_was() {
    let file = Counted::new();
    let mut flight = flight(vec![write(&file, "abcdef"), sync(&file), read(&file, 4, 4)]);
    assert_eq!(flight.completed(false, 2), Now::Submit);
    assert_eq!(flight.completed(false, CANCELED), Now::Refused(Errno::CANCELED));
    assert_eq!(flight.answer().unwrap(), ["ef67"]);
    // The first two bytes are what the kernel says it wrote.
    assert_eq!(file.file.len_bytes().unwrap(), 10);
    let mut bytes = Vec::with_capacity(10);
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, b"01cdef6789");
    assert_eq!(file.sync_count(), 1);
}

#[test]
fn a_sync_that_was_not_begun_is_made_once() {
    for guard_first in [true, false] {
        let file = Counted::new();
        let mut flight = flight(vec![sync(&file), read(&file, 0, 1)]);
        assert_eq!(flight.completed(guard_first, CANCELED), Now::Rest);
        assert_eq!(flight.completed(!guard_first, CANCELED), Now::Refused(Errno::CANCELED));
        assert_eq!(flight.answer().unwrap(), ["0"]);
        assert_eq!(file.sync_count(), 1);
    }
}

#[test]
fn a_sync_that_was_begun_and_failed_is_not_made_again() {
    for (guard, errno, is_apart) in [
        (0, CANCELED, false),
        (0, AGAIN, false),
        (0, IO, false),
        (CANCELED, IO, false),
        (CANCELED, CANCELED, true),
    ] {
        let file = Counted::new();
        let mut flight = flight(vec![sync(&file), sync(&file)]);
        flight.is_apart = is_apart;
        assert_eq!(flight.completed(true, guard), Now::Rest);
        assert_eq!(flight.completed(false, errno), Now::Rest);
        let error = flight.answer().unwrap_err();
        assert_eq!((error.operation, error.source.raw_os_error()), (Operation::Sync, Some(-errno)));
        assert_eq!(file.sync_count(), 0);
    }
}

// What a kernel does.

#[test]
fn syncs_go_by_a_ring_behind_their_guards() {
    let Some(rings) = rings() else { return };
    let files: Vec<_> = (0..100).map(|_| Counted::new()).collect();
    let chain = |file| vec![write(file, "ab"), sync(file), read(file, 1, 2), sync(file)];
    let answers = rings.run(Batch { chains: files.iter().map(chain).collect() }).unwrap();
    assert!(answers.into_iter().all(|answer| answer.unwrap() == ["b2"]));
    assert!(files.iter().all(|file| file.sync_count() == 0));
    assert!(rings.are_in_use());
}

#[test]
fn a_kernel_that_says_nothing_is_not_waited_for_longer_than_agreed() {
    let (end, _other_end) = UnixStream::pair().unwrap();
    let Ok(mut ring) = Ring::new() else { return };
    if !ring.uring.params().is_feature_ext_arg() {
        return;
    }
    let file = Arc::new(Socket { end }) as Arc<dyn File>;
    let read = Op::Read { file, offset_bytes: 0, len_bytes: 1 };
    let answers = ring.run(Batch { chains: vec![vec![read]] }, Some(Duration::from_millis(1)));
    assert!(answers.into_iter().all(|answer| answer.is_err()));
    let why = ring.broken.expect("it was waited for");
    assert_eq!(why.raw_os_error(), Some(Errno::TIME.raw_os_error()));
}

/// The end of a socket to whose other end nobody writes.
#[derive(Debug)]
struct Socket {
    end: UnixStream,
}

impl File for Socket {
    fn name(&self) -> FileName {
        FileName::Lock
    }
    fn len_bytes(&self) -> Result<u64, DiskError> {
        Ok(0)
    }
    fn set_len(&self, _len_bytes: u64) -> Result<(), DiskError> {
        Ok(())
    }
    fn allocate(&self, _len_bytes: u64) -> Result<(), DiskError> {
        Ok(())
    }
    fn read_at(&self, _offset_bytes: u64, _buffer: &mut Vec<u8>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write_at(&self, _offset_bytes: u64, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.end.as_fd())
    }
}

// Where it has no thread to give.

/// Set in a process that a test starts of itself.
const CHILD: &str = "PINSTONE_TEST_CHILD";

/// Runs the test again in a process of its own, and `run` there, in a thread whose user may have no further one.
/// `begin` runs before that, with no such limit.
fn without_threads<T: Send + 'static>(
    test: &str,
    begin: impl FnOnce() -> Option<T>,
    run: impl FnOnce(T) + Send + 'static,
) {
    if std::env::var_os(CHILD).is_none() {
        let mut command = Command::new("/proc/self/exe");
        command.args([&format!("uring::tests::{test}"), "--exact", "--nocapture"]).env(CHILD, "1");
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let Some(begun) = begin() else { return };
    let (done, is_done) = sync_channel(1);
    let _thread = env::spawn("limited", move || {
        if rustix::process::geteuid().is_root() {
            let somebody = Uid::from_raw(54_321);
            rustix::thread::set_thread_res_uid(somebody, somebody, somebody).unwrap();
        }
        let whole = getrlimit(Resource::Nproc);
        setrlimit(Resource::Nproc, Rlimit { current: Some(0), ..whole }).unwrap();
        assert!(env::spawn("refused", || ()).is_err(), "the limit holds");
        run(begun);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(PATIENCE).expect("it comes to its end, and waits for no thread");
}

#[test]
fn a_kernel_without_a_thread_to_give_is_not_asked_again() {
    let test = "a_kernel_without_a_thread_to_give_is_not_asked_again";
    without_threads(
        test,
        || rings().map(drop),
        |()| {
            let error = Engine::new(IoEngine::Uring).unwrap_err();
            assert!(error.source.to_string().contains("no thread"), "{}", error.source);
            assert_eq!(Engine::new(IoEngine::Auto).unwrap().name(), "positioned");
        },
    );
}

#[test]
fn a_batch_that_there_is_no_thread_for_is_done_by_calls_and_the_next_goes_by_them() {
    let test = "a_batch_that_there_is_no_thread_for_is_done_by_calls_and_the_next_goes_by_them";
    // Two sets, so that none has workers that another left.
    let begin = || Some([rings()?, rings()?]);
    without_threads(test, begin, |[for_syncs, for_all]| {
        let files: Vec<_> = (0..100).map(|_| Counted::new()).collect();
        let syncs = || Batch { chains: files.iter().map(|file| vec![sync(file)]).collect() };
        let answers = for_syncs.run(syncs()).unwrap();
        assert!(answers.into_iter().all(|answer| answer.unwrap().is_empty()));
        assert!(files.iter().all(|file| file.sync_count() == 1));
        assert!(!for_syncs.are_in_use());
        assert_eq!(for_syncs.run(syncs()).unwrap_err().chains.len(), files.len());

        let chain = |file| vec![write(file, "ab"), sync(file), read(file, 1, 2)];
        let answers = for_all.run(Batch { chains: files.iter().map(chain).collect() }).unwrap();
        assert!(answers.into_iter().all(|answer| answer.unwrap() == ["b2"]));
        assert!(files.iter().all(|file| file.sync_count() == 2));
        assert!(!for_all.are_in_use());
    });
}
