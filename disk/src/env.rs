//! The one facade for what makes a run differ from the next: locks, atomics that order things,
//! threads, clocks, and the seeds of hash maps.
//!
//! Everything above this crate takes these from here (`clippy.toml` bans the originals), so that a
//! scheduler which explores interleavings can stand in for the real one: the module `shuttled` beside
//! `real`, chosen by the feature `shuttle`, exports the same names.
//!
//! - E1: no map is seeded by chance. A map of digests takes a seed from its owner, because digests
//!   can be ground by an attacker; a map of our own keys has a fixed one.
//! - E2: no clock decides what is correct; [`monotonic`] is for waiting, rates and reports.

use std::hash::{BuildHasher, Hasher};
use std::sync::PoisonError;

use crate::digest::Digest;

#[cfg(feature = "shuttle")]
use shuttled as machine;

#[cfg(feature = "shuttle")]
mod shuttled;

#[cfg(not(feature = "shuttle"))]
use real as machine;

pub use machine::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, Condvar, JoinHandle, Mutex, MutexGuard, Ordering,
    Published, Reading, RwLock, monotonic, spawn, yield_now,
};
#[cfg(feature = "shuttle")]
pub use shuttled::{explore, replay};

/// Counts that many threads raise, each thread in a line of the cache that it shares with few others: reached
/// as this thread's own, and added up over [`all`](Self::all).
#[derive(Debug)]
pub struct Striped<T, const STRIPES: usize = 16>([Line<T>; STRIPES]);

/// What no other line of the cache has a part of; processors fetch two of 64 bytes at once.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T, const STRIPES: usize> Striped<T, STRIPES> {
    /// Every thread's.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|line| &line.0)
    }
}

impl<T: Default, const STRIPES: usize> Default for Striped<T, STRIPES> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Line::default()))
    }
}

impl<T, const STRIPES: usize> std::ops::Deref for Striped<T, STRIPES> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0[machine::thread_number() % STRIPES].0
    }
}

/// A state that many threads wait to see changed, who are told by one call of the machine: with a [`Condvar`] it
/// would be one for each, and each could run before the next is told.
#[derive(Debug, Default)]
pub struct Announced<T> {
    state: machine::PlainMutex<T>,
    changed: machine::PlainCondvar,
}

impl<T> Announced<T> {
    /// Waits until `see` sees in the state what it waits for, and returns that.
    pub fn wait<R>(&self, mut see: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(seen) = see(&mut state) {
                return seen;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes the state, and tells all who wait.
    pub fn tell_all(&self, change: impl FnOnce(&mut T)) {
        self.change(change);
        self.changed.notify_all();
    }

    /// The same, and tells one.
    pub fn tell_one(&self, change: impl FnOnce(&mut T)) {
        self.change(change);
        self.changed.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A map of keys that no stranger chooses: its seed is fixed. `HashMap::default()` makes one.
pub type HashMap<K, V> = hashbrown::HashMap<K, V, FixedSeed>;

/// A map from digests: `DigestMap::with_hasher(DigestSeed::new(disk.random()?))`.
pub type DigestMap<V> = hashbrown::HashMap<Digest, V, DigestSeed>;

/// A table of what its owner hashes and compares.
pub use hashbrown::HashTable;

/// Hashes names, which strangers choose, under a key that they do not know (SipHash-1-3: Aumasson and
/// Bernstein, 2012).
#[derive(Clone, Copy, Debug)]
pub struct NameSeed([u8; 16]);

impl NameSeed {
    /// The seed made of these bytes, usually [`crate::Disk::random`]'s.
    pub fn new(seed: [u8; 16]) -> Self {
        Self(seed)
    }

    /// A name's hash.
    pub fn hash(self, name: &[u8]) -> u64 {
        siphasher::sip::SipHasher13::new_with_key(&self.0).hash(name)
    }
}

/// Hashes any key, always in the same way.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedSeed;

impl BuildHasher for FixedSeed {
    type Hasher = foldhash::fast::FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        foldhash::fast::FixedState::with_seed(0x5049_4e53_544f_4e45).build_hasher()
    }
}

/// Hashes digests under a seed: 16 of their bytes and one multiplication. Only for keys that are
/// digests, which are uniform before hashing; the seed is there because they can be ground.
#[derive(Clone, Copy, Debug)]
pub struct DigestSeed([u64; 2]);

impl DigestSeed {
    /// The seed made of these bytes, usually [`crate::Disk::random`]'s.
    pub fn new(seed: [u8; 16]) -> Self {
        Self(halves(&seed))
    }
}

impl BuildHasher for DigestSeed {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher { seed: self.0, hash: 0 }
    }
}

/// The hasher of [`DigestSeed`].
#[derive(Clone, Copy, Debug)]
pub struct DigestHasher {
    seed: [u64; 2],
    hash: u64,
}

impl Hasher for DigestHasher {
    /// Takes the first 16 bytes.
    fn write(&mut self, bytes: &[u8]) {
        let key = bytes.first_chunk().expect("only digests are hashed so, and they are longer");
        let [low, high] = halves(key);
        self.hash = fold(low ^ self.seed[0], high ^ self.seed[1]);
    }

    /// The length prefix of the digest's array: always the same.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.hash
    }
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let bytes = u128::from_le_bytes(*bytes);
    [low_half(bytes), low_half(bytes >> 64)]
}

/// Both halves of the 128-bit product, folded into one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    low_half(product) ^ low_half(product >> 64)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low_half(wide: u128) -> u64 {
    wide as u64
}

#[cfg(not(feature = "shuttle"))]
mod real {
    //! The machine's own: `parking_lot` and `std`.

    use std::io;
    use std::sync::OnceLock;
    use std::time::Duration;

    pub use parking_lot::MutexGuard;
    pub use std::sync::Arc;
    pub use std::sync::atomic::Ordering;
    pub use std::thread::{JoinHandle, yield_now};

    // Aliases and not re-exports: the ban in `clippy.toml` sees through the latter.

    /// A truth value that threads share.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type AtomicBool = std::sync::atomic::AtomicBool;

    /// A number of 64 bits that threads share.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type AtomicU64 = std::sync::atomic::AtomicU64;

    /// A number of the machine's width that threads share.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type AtomicUsize = std::sync::atomic::AtomicUsize;

    /// A mutual exclusion lock without poisoning.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type Mutex<T> = parking_lot::Mutex<T>;

    /// A readers-writer lock without poisoning.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type RwLock<T> = parking_lot::RwLock<T>;

    /// A condition to wait for under a [`Mutex`].
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub type Condvar = parking_lot::Condvar;

    /// The standard library's, whose waiters are woken together.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub(super) type PlainMutex<T> = std::sync::Mutex<T>;

    /// Belongs to [`PlainMutex`].
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub(super) type PlainCondvar = std::sync::Condvar;

    /// A value that is replaced whole and read without waiting: who reads it keeps what it has read.
    #[derive(Debug)]
    pub struct Published<T>(arc_swap::ArcSwap<T>);

    /// What was read of a [`Published`], for a moment: holding many of these at once makes reading
    /// slower.
    #[derive(Debug)]
    pub struct Reading<T>(arc_swap::Guard<Arc<T>>);

    impl<T> Published<T> {
        /// Publishes `value`.
        pub fn new(value: Arc<T>) -> Self {
            Self(arc_swap::ArcSwap::new(value))
        }

        /// What is published now. Waits for nobody.
        pub fn read(&self) -> Reading<T> {
            Reading(self.0.load())
        }

        /// What is published now, to be kept. Waits for nobody.
        pub fn keep(&self) -> Arc<T> {
            self.0.load_full()
        }

        /// Publishes `value` in place of what was. Two who do so at once need a lock of their own.
        pub fn publish(&self, value: Arc<T>) {
            self.0.store(value);
        }
    }

    impl<T> std::ops::Deref for Reading<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    /// Starts a thread with a name.
    ///
    /// # Errors
    ///
    /// The machine's, when it has no more threads to give.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub fn spawn<T: Send + 'static>(
        name: impl Into<String>,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        std::thread::Builder::new().name(name.into()).spawn(run)
    }

    /// Numbers threads as they come.
    pub(super) fn thread_number() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        // A thread that is ending has none any more.
        NUMBER.try_with(|number| *number).unwrap_or(0)
    }

    /// Time since the first call in this process. It never goes back.
    #[expect(clippy::disallowed_types, reason = "this is the facade that the ban points to")]
    pub fn monotonic() -> Duration {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_maps_find_what_they_hold_under_any_seed() {
        for seed in [[0; 16], [1; 16], [0xff; 16]] {
            let mut map = DigestMap::with_hasher(DigestSeed::new(seed));
            for number in 0u32..1000 {
                map.insert(Digest::of(&number.to_le_bytes()), number);
            }
            for number in 0u32..1000 {
                assert_eq!(map.get(&Digest::of(&number.to_le_bytes())), Some(&number));
            }
        }
    }

    #[test]
    fn a_seed_moves_digests_that_agree_in_most_bytes() {
        let digests: Vec<Digest> = (0..64u8)
            .map(|last| {
                let mut bytes = [7; 32];
                bytes[15] = last;
                Digest::from_bytes(bytes)
            })
            .collect();
        let seed = DigestSeed::new(*b"0123456789abcdef");
        let mut low_bits: Vec<u64> = digests.iter().map(|d| seed.hash_one(d) & 0xfff).collect();
        low_bits.sort_unstable();
        low_bits.dedup();
        assert!(low_bits.len() > 48, "{} of 64 differ", low_bits.len());
        let other = DigestSeed::new(*b"fedcba9876543210");
        assert!(digests.iter().all(|d| seed.hash_one(d) != other.hash_one(d)));
    }

    #[test]
    fn fixed_maps_iterate_alike_in_every_run() {
        let build = || (0..100u32).map(|n| (n * 7, n)).collect::<HashMap<_, _>>();
        assert!(build().iter().eq(build().iter()));
    }

    #[test]
    fn what_was_read_stays_when_another_is_published() {
        let published = Published::new(Arc::new(1));
        let (read, kept) = (published.read(), published.keep());
        published.publish(Arc::new(2));
        assert_eq!((*read, *kept, *published.read()), (1, 1, 2));
        drop(read);
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn what_threads_count_adds_up() {
        let counted = Arc::new(Striped::<AtomicU64>::default());
        let threads: Vec<_> = (0..40)
            .map(|by| {
                let counted = Arc::clone(&counted);
                spawn("counts", move || counted.fetch_add(by, Ordering::Relaxed)).unwrap()
            })
            .collect();
        let before: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(before.len(), 40);
        let all: Vec<_> = counted.all().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(all.iter().sum::<u64>(), 780);
        assert!(all.iter().filter(|count| **count > 0).count() > 1, "each in its own place");
    }

    #[test]
    fn threads_bear_their_names() {
        let name = spawn("pinstone-test", || std::thread::current().name().map(str::to_owned));
        assert_eq!(name.unwrap().join().unwrap().as_deref(), Some("pinstone-test"));
        assert!(monotonic() <= monotonic());
    }
}
