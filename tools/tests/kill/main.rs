//! A real process is killed with SIGKILL at random instants, again and again on one store that
//! ages, and an oracle outside it remembers every reply that came out: nothing acknowledged may be
//! lost, no pointer may dangle, no byte may be wrong.
//!
//! - `rounds.rs`: `pinstone batch`, with several requests in flight: rounds of requests, a kill,
//!   kills while it opens again, a survey of all that is left.
//! - `threads.rs`: the same with the library itself: threads that commit at once, and segments so
//!   small that they fill, rotate and are sealed under the kills (the command line has no option
//!   for that).
//! - `oracle.rs` knows what must be there, `request.rs` what is asked, `child.rs` how a process
//!   lives and dies.
//!
//! `PINSTONE_KILL_ROUNDS` says how many rounds (20), `PINSTONE_KILL_SEED` which ones. An instant is
//! so many replies, then so many requests more, then so many turns of an empty loop: no clock. What
//! the machine does between two instants is its own affair, so a seed repeats the requests and the
//! plan, not the outcome.
//!
//! What it can see, and what not: a killed process loses its memory, and nothing that it gave to
//! the kernel. So this harness sees what the engine acknowledges and still holds in memory, what
//! it tells before it is true, an opening that cannot be interrupted, half a commit, a lock that
//! outlives its process. It cannot see a missing or a misplaced sync: the page cache outlives the
//! process. Of the planted bugs it therefore catches `ack-before-write` alone; all the others
//! concern syncs, failing disks or damage, and are caught on the simulated disk.
//! `what_the_harness_must_see` lies to the oracle in every way that it claims to see.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests copy and damage files, start processes, choose small numbers, and may fail"
)]

mod child;
mod oracle;
mod request;
mod rounds;
mod threads;

use rounds::{Lie, Plan};

/// A reproducible source of choices.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Below 2^`bits`, small numbers as likely as large ones.
    fn skewed(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits + 1);
        self.below(1 << bits)
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Bytes that do not compress and differ by their seed.
fn noise(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed, 1);
    let mut bytes: Vec<u8> =
        (0..len_bytes.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len_bytes);
    bytes
}

/// A number given by the environment.
fn given(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => default,
    }
}

fn plan() -> Plan {
    Plan {
        seed: given("PINSTONE_KILL_SEED", 1),
        rounds: given("PINSTONE_KILL_ROUNDS", 20),
        lie: None,
        bug: None,
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let report = rounds::run(&plan());
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.commits > 0 && report.kills > 0);
}

#[test]
fn killed_threads_lose_nothing_acknowledged() {
    let Plan { seed, rounds, .. } = plan();
    let report = threads::run(seed, rounds);
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.commits > 0 && report.kills > 0);
}

#[test]
fn what_the_harness_must_see() {
    for lie in [Lie::AcknowledgedTooEarly, Lie::OldCopy, Lie::ForeignCommit, Lie::Damage] {
        let report = rounds::run(&Plan { seed: 2, rounds: 10, lie: Some(lie), bug: None });
        println!("{lie:?}: {report}");
        assert!(!report.violations.is_empty(), "the harness does not see {lie:?}");
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_commit_acknowledged_before_it_is_written_is_caught() {
    let plan = Plan { seed: 3, rounds: 10, lie: None, bug: Some("ack-before-write") };
    let report = rounds::run(&plan);
    println!("{report}");
    assert!(report.commits > 0 && !report.violations.is_empty(), "the harness does not see it");
}
