//! Spreads independent cases over the machine's threads. Each case has a store and a disk of its
//! own, so nothing but the order of the work depends on timing.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of the harness, around stores that each have one"
)]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Does `work` for every item, each thread into its own tally; ends early when one says so.
pub fn sweep<T: Sync, A: Default + Send>(
    items: &[T],
    work: impl Fn(&mut A, &T) -> ControlFlow<()> + Sync,
) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let worker = || {
        let mut tally = A::default();
        while !over.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if work(&mut tally, item).is_break() {
                over.store(true, Ordering::Relaxed);
            }
        }
        tally
    };
    let thread_count = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..thread_count).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().map(|thread| thread.join().expect("cases catch panics")).collect()
    })
}
