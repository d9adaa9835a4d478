//! What the system says of this process.
#![cfg(target_os = "linux")]
#![allow(dead_code, reason = "not every test asks for all of it")]
#![expect(clippy::disallowed_methods, reason = "it is read from a file of the system")]

/// Bytes of anonymous memory that are resident now.
pub fn anonymous_bytes() -> u64 {
    told_bytes("RssAnon:")
}

/// Bytes that were resident at once, at most, since [`forget_peak`].
pub fn peak_bytes() -> u64 {
    told_bytes("VmHWM:")
}

/// From now on the peak is another one.
pub fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("every process has it");
}

fn told_bytes(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("every process has it");
    let told = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_suffix(" kB"));
    let kib: u64 = told.expect("it is told in KiB").trim().parse().expect("it is a number");
    kib << 10
}
