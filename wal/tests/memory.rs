//! What a record claims is no reason to take memory. A binary of its own: it looks at the most memory
//! that the process ever had.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "what the system says of this process")]

use pinstone_disk::codec::put_varint;
use pinstone_wal::CommitRecord;

const CHANGE_COUNT: u32 = 4 << 20;

/// The most bytes of address space that this process had until now.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// A commit's payload up to the changes, of which it claims so many.
fn head(change_count: u64, capacity_bytes: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(capacity_bytes);
    payload.resize(8 + 8 + 1, 0);
    put_varint(&mut payload, change_count);
    payload
}

#[test]
fn a_commit_takes_no_memory_before_all_of_it_was_read() {
    // Each change is a deletion of a name of four bytes, in order.
    let change_bytes = 1 + 1 + 4;
    let payload_bytes = CHANGE_COUNT as usize * change_bytes + 64;
    let mut changes = head(u64::from(CHANGE_COUNT) + 1, payload_bytes);
    for number in 0..CHANGE_COUNT {
        changes.extend_from_slice(&[0, 4]);
        changes.extend_from_slice(&number.to_be_bytes());
    }
    let claimed = [u64::from(CHANGE_COUNT) * 2, 1 << 40, u64::MAX >> 1].map(|change_count| {
        let mut zeros = head(change_count, payload_bytes);
        zeros.resize(payload_bytes, 0);
        zeros
    });
    let before = peak_bytes();
    let refused = CommitRecord::decode(&changes).unwrap_err();
    assert_eq!((refused.offset, refused.what), (changes.len(), "a change's kind"));
    for payload in &claimed {
        assert_eq!(CommitRecord::decode(payload).unwrap_err().what, "a name of 1 to 1024 bytes");
    }
    let taken = peak_bytes() - before;
    assert!(taken < payload_bytes as u64, "{taken} bytes for a record of {payload_bytes}");
}
