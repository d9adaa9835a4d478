//! What the system says of this process.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "it is read from a file of the system")]

/// Bytes of anonymous memory that are resident now.
pub fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("every process has it");
    let figure = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix(" kB"));
    let kib: u64 = figure.expect("it is told in KiB").trim().parse().expect("it is a number");
    kib << 10
}
