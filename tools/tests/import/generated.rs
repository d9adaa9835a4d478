//! The generated tree: every mode, odd names, times, links and depths, and many small files.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::harness::is_root;

/// Numbers that look random and are the same in each run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

pub(crate) const FILES: usize = 50_000;

/// Seconds at which file systems and programs have been wrong. Not each file system keeps each.
const TIMES: [(i64, i64); 10] = [
    (0, 0),
    (-1, 999_999_999),
    (-1, 0),
    (-2_147_483_648, 1),
    (-2_000_000_000, 123_456_789),
    (1, 1),
    (2_147_483_647, 999_999_999),
    (2_147_483_648, 0),
    (4_294_967_296, 500_000_000),
    (15_032_385_535, 7),
];

fn times((seconds, nanos): (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    }
}

pub(crate) fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

pub(crate) fn make_dir(dir: &OwnedFd, name: &[u8]) -> OwnedFd {
    rustix::fs::mkdirat(dir, name, Mode::RWXU).unwrap();
    rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

pub(crate) fn make_file(dir: &OwnedFd, name: &[u8], bytes: &[u8], mode: u32, time: (i64, i64)) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, bytes).unwrap();
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).unwrap();
    rustix::fs::futimens(&file, &times(time)).unwrap();
}

fn make_symlink(dir: &OwnedFd, name: &[u8], target: &[u8], time: (i64, i64)) {
    rustix::fs::symlinkat(target, dir, name).unwrap();
    rustix::fs::utimensat(dir, name, &times(time), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn finish_dir(dir: &OwnedFd, mode: u32, time: (i64, i64)) {
    rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).unwrap();
    rustix::fs::futimens(dir, &times(time)).unwrap();
}

/// What only root may read is made by root only.
fn readable(mode: u32, always: u32) -> u32 {
    if is_root() { mode } else { mode | always }
}

/// Makes the tree in `root` and gives how many entries it has that cannot be kept.
pub(crate) fn generate(root: &Path) -> u64 {
    let mut numbers = Numbers(1);
    let mut files = 0;
    let top = open_dir(root);
    let some_time = |numbers: &mut Numbers| match numbers.below(4) {
        0 => TIMES[numbers.below(TIMES.len() as u64) as usize],
        _ => {
            let nanos = numbers.below(1_000_000_000) as i64;
            (1_600_000_000 + numbers.below(100_000_000) as i64, nanos)
        }
    };

    // Every mode a file can have, and many that a directory can.
    let modes = make_dir(&top, b"modes");
    for mode in 0..=0o7777 {
        let name = format!("{mode:04o}");
        make_file(&modes, name.as_bytes(), name.as_bytes(), readable(mode, 0o400), (9, 9));
        files += 1;
    }
    finish_dir(&modes, 0o755, (8, 8));
    let modes = make_dir(&top, b"directory modes");
    for mode in (0..=0o7777).step_by(13) {
        let name = format!("{mode:04o}");
        let dir = make_dir(&modes, name.as_bytes());
        make_file(&dir, b"in", b"in", 0o644, (9, 9));
        finish_dir(&dir, readable(mode, 0o500), TIMES[mode as usize % TIMES.len()]);
        files += 1;
    }
    finish_dir(&modes, readable(0o000, 0o500), (-8, 8));

    // Every byte that a name can hold, and names that programs trip over.
    let names = make_dir(&top, b"names");
    let mut odd: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| *byte != b'/')
        .map(|byte| if byte == b'.' { b"...".to_vec() } else { vec![byte] })
        .collect();
    odd.extend([vec![b'x'; 255], vec![0xff; 255], b"-rf".to_vec(), b"..a".to_vec()]);
    odd.extend([b"two\nlines".to_vec(), b"\\x41".to_vec(), "ä\u{301}".into(), b"a ".to_vec()]);
    for name in &odd {
        make_file(&names, name, name, 0o640, some_time(&mut numbers));
        files += 1;
    }
    make_dir(&names, b"\xfe\xff dir\n");
    finish_dir(&names, 0o755, (7, 7));

    let links = make_dir(&top, b"links");
    make_file(&links, b"file", b"linked to", 0o600, (6, 6));
    files += 1;
    let long = [b'y'; 4095];
    for (index, (name, target)) in [
        (&b"relative"[..], &b"file"[..]),
        (b"dangling", b"no such file"),
        (b"absolute", b"/etc/passwd"),
        (b"out", b"../../../../../../../../tmp"),
        (b"self", b"self"),
        (b"one", b"two"),
        (b"two", b"one"),
        (b"directory", b"."),
        (b"up", b".."),
        (b"bytes\xff", b"\xfe\n\xff"),
        (b"long", &long[..4000]),
    ]
    .into_iter()
    .enumerate()
    {
        make_symlink(&links, name, target, TIMES[index % TIMES.len()]);
    }
    let empty = AtFlags::empty();
    rustix::fs::linkat(&links, "file", &links, "hard link", empty).unwrap();
    rustix::fs::linkat(&links, "file", &top, "hard link", empty).unwrap();
    files += 2;
    finish_dir(&links, 0o1777, (5, 5));

    // Deeper than a path can name.
    let mut dir = make_dir(&top, b"deep");
    for depth in 0..1_500 {
        make_file(&dir, b"f", format!("{depth}").as_bytes(), 0o644, (depth, 1));
        files += 1;
        let below = make_dir(&dir, b"dir");
        finish_dir(&dir, 0o700, (depth, 2));
        dir = below;
    }
    finish_dir(&dir, 0o755, (4, 4));

    let sizes = make_dir(&top, b"sizes");
    for size in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20, (8 << 20) + 1, 9 << 20] {
        let bytes = numbers.bytes(size);
        make_file(&sizes, format!("{size}").as_bytes(), &bytes, 0o444, (3, 3));
        make_file(&sizes, format!("{size} zeros").as_bytes(), &vec![0; size], 0o444, (3, 3));
        files += 2;
    }
    finish_dir(&sizes, 0o555, (3, 4));

    let special = make_dir(&top, b"special");
    let mut left_out = 2;
    rustix::fs::mknodat(&special, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("special/socket")).unwrap());
    let null = rustix::fs::makedev(1, 3);
    match rustix::fs::mknodat(&special, "null", FileType::CharacterDevice, Mode::RUSR, null) {
        Ok(()) => left_out += 1,
        Err(error) => eprintln!("without a device node: {error}"),
    }
    make_symlink(&special, b"to fifo", b"fifo", (1, 1));
    finish_dir(&special, 0o755, (2, 2));

    // The bulk: many small files, some of them equal.
    let bulk = make_dir(&top, b"bulk");
    let per_dir = 150;
    let mut index = 0;
    while files < FILES {
        let dir = make_dir(&bulk, format!("{index:03}").as_bytes());
        for number in 0..per_dir.min(FILES - files) {
            let bytes = match numbers.below(8) {
                0 => Vec::new(),
                1 => b"the same in many files\n".to_vec(),
                2 => numbers.bytes(2000),
                _ => {
                    let count = numbers.below(300) as usize;
                    numbers.bytes(count)
                }
            };
            let time = some_time(&mut numbers);
            make_file(&dir, format!("file {number}").as_bytes(), &bytes, 0o644, time);
            files += 1;
        }
        if index % 9 == 0 {
            make_dir(&dir, b"empty");
        }
        finish_dir(&dir, 0o755, some_time(&mut numbers));
        index += 1;
    }
    make_dir(&top, b"store is here");
    finish_dir(&top, 0o2750, (-77, 77));
    left_out
}
