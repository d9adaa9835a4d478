//! Locks, atomics and threads of a scheduler that explores interleavings: what `real` exports, under
//! the same names and with the same calls, over `shuttle`. For tests alone.
//!
//! Threads are switched where a lock, an atomic or a thread is used, and nowhere else; so what is
//! explored is every order that these allow. What blocks by other means (a cache's own locks while
//! it loads, say) must not wait for another thread of the exploration.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};

pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
pub(super) use shuttle::sync::{Condvar as PlainCondvar, Mutex as PlainMutex};
pub use shuttle::thread::{JoinHandle, yield_now};
pub use std::sync::Arc;
pub use std::sync::atomic::Ordering;

/// A mutual exclusion lock without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// Holds a [`Mutex`].
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(Option<shuttle::sync::MutexGuard<'a, T>>);

const HELD: &str = "a guard is empty only while its owner waits for a condition";

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// What it protects.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until nobody else holds it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect(HELD)
    }
}

/// A readers-writer lock without poisoning.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(shuttle::sync::RwLock<T>);

use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

impl<T> RwLock<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition to wait for under a [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    /// Lets go of the lock, and has it again once told.
    #[expect(clippy::missing_panics_doc, reason = "a guard is empty only while its owner waits")]
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// The same. No time passes, so that it ends only once told.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        self.wait(guard);
    }

    /// Tells one who waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Tells all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A value that is replaced whole and read without waiting: who reads it keeps what it has read.
#[derive(Debug)]
pub struct Published<T>(RwLock<Arc<T>>);

/// What was read of a [`Published`], for a moment.
#[derive(Debug)]
pub struct Reading<T>(Arc<T>);

impl<T> Published<T> {
    /// Publishes `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(RwLock::new(value))
    }

    /// What is published now.
    pub fn read(&self) -> Reading<T> {
        Reading(self.keep())
    }

    /// What is published now, to be kept.
    pub fn keep(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }

    /// Publishes `value` in place of what was.
    pub fn publish(&self, value: Arc<T>) {
        *self.0.write() = value;
    }
}

impl<T> Deref for Reading<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Starts a thread of the exploration.
///
/// # Errors
///
/// None.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    shuttle::thread::Builder::new().name(name.into()).spawn(run)
}

/// One for all: threads of an exploration are one of the machine's.
pub(super) fn thread_number() -> usize {
    0
}

/// No time passes: nothing that is explored depends on it.
pub fn monotonic() -> Duration {
    Duration::ZERO
}

/// Runs `test` under so many schedules: half of them drawn at random, half with few switches, each
/// at a place drawn (probabilistic concurrency testing: Burckhardt and others, ASPLOS 2010). A
/// failure prints the schedule, which [`replay`] runs again.
pub fn explore(schedule_count: usize, test: impl Fn() + Send + Sync + Clone + 'static) {
    let random = RandomScheduler::new(schedule_count.div_ceil(2));
    shuttle::Runner::new(random, config()).run(test.clone());
    let few_switches = PctScheduler::new(3, schedule_count / 2);
    shuttle::Runner::new(few_switches, config()).run(test);
}

/// With stacks that hold what a store does on one; the scheduler's own are small.
fn config() -> shuttle::Config {
    let mut config = shuttle::Config::new();
    config.stack_size = 512 << 10;
    config
}

/// Runs `test` under a schedule that [`explore`] printed.
pub fn replay(schedule: &str, test: impl Fn() + Send + Sync + 'static) {
    shuttle::Runner::new(ReplayScheduler::new_from_encoded(schedule), config()).run(test);
}
