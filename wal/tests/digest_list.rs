//! A digest is found in a sealed segment's list by one page, however the digests were chosen; and
//! damage makes an error or nothing, never another answer.
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "threads of a test")]

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::header;
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Digest, Disk, FormatError, LogKind, OpenMode, Operation};
use pinstone_wal::{
    DIGEST_PAGE_BYTES, DigestList, Footer, ListEntry, Sealer, SegmentFile, SegmentHeader,
    SizeClass, WalError, check_list, read_footer, read_list,
};
use proptest::prelude::*;

const FRAMES_END_BYTES: u64 = 1 << 20;
const PAGE: u64 = DIGEST_PAGE_BYTES as u64;

/// A sealed segment that lists what the test wants; its frames are a hole.
struct Listed {
    disk: Arc<SimDisk>,
    segment: SegmentFile,
    footer: Footer,
    /// Sorted.
    entries: Vec<ListEntry>,
    /// The list's pages, before any damage.
    pages: Vec<u8>,
}

impl Listed {
    fn new(entries: impl IntoIterator<Item = ListEntry>) -> Self {
        let entries = BTreeSet::from_iter(entries);
        let mut sealer = Sealer::default();
        // Not in their order.
        entries.iter().rev().for_each(|entry| sealer.value(*entry));
        let header = header(LogKind::Blob, 1);
        let (bytes, _) = sealer.finish(header, FRAMES_END_BYTES);
        let frames = vec![0; usize::try_from(FRAMES_END_BYTES).unwrap()];
        let disk = SimDisk::new(1);
        disk.put_file(&header.file_name().to_string(), [&frames, &*bytes].concat().as_slice());
        Self::of(disk, header, entries.into_iter().collect())
    }

    fn of(disk: Arc<SimDisk>, header: SegmentHeader, entries: Vec<ListEntry>) -> Self {
        let file = disk.open(header.file_name(), OpenMode::Read).unwrap();
        let segment = SegmentFile { header, file };
        let (footer, _) = read_footer(&*disk, &segment).unwrap();
        let mut pages = disk.file_bytes(&header.file_name().to_string()).unwrap();
        let start = usize::try_from(footer.list_offset_bytes).unwrap();
        pages.drain(..start);
        Self { disk, segment, footer, entries, pages }
    }

    fn open(&self) -> Result<DigestList, WalError> {
        DigestList::open(&*self.disk, &self.segment, &self.footer)
    }

    fn find(&self, list: &DigestList, digest: &Digest) -> Result<Vec<ListEntry>, WalError> {
        let mut found = Vec::new();
        let flow = list.find(&*self.disk, &self.segment.file, digest, |entry| {
            found.push(entry);
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue(), "nobody broke");
        Ok(found)
    }

    fn expected(&self, digest: &Digest) -> Vec<ListEntry> {
        let start = self.entries.partition_point(|entry| entry.digest < *digest);
        let entries = self.entries[start..].iter().copied();
        entries.take_while(|entry| entry.digest == *digest).collect()
    }

    /// Pages read to find `digest`, which is found as it should be.
    fn reads(&self, list: &DigestList, digest: &Digest) -> u64 {
        let before = self.disk.op_count();
        assert_eq!(self.find(list, digest).unwrap(), self.expected(digest), "{digest}");
        let reads = self.disk.op_count() - before;
        // To say that an offset is not listed takes checking pages, each time.
        if digest.as_bytes()[31].is_multiple_of(8) {
            self.assert_lists(list, digest);
        }
        reads
    }

    fn assert_lists(&self, list: &DigestList, digest: &Digest) {
        let lists = |offset_bytes| {
            list.lists(&*self.disk, &self.segment.file, digest, offset_bytes).unwrap()
        };
        let expected = self.expected(digest);
        assert!(expected.iter().all(|entry| lists(entry.offset_bytes)), "{digest}");
        assert!(!lists(511), "{digest}");
        // One of the pages shows it to who checks nothing.
        let shows = |entry: &ListEntry, page: usize| {
            let bytes = &self.pages[page * DIGEST_PAGE_BYTES..][..DIGEST_PAGE_BYTES];
            assert!(!list.page_lists(page, bytes, digest, 511).unwrap(), "{digest}");
            list.page_lists(page, bytes, digest, entry.offset_bytes).unwrap()
        };
        for entry in &expected {
            assert!(list.pages(digest).any(|page| shows(entry, page)), "{entry:?}");
        }
    }

    /// What is listed, and digests beside it.
    fn asked(&self) -> BTreeSet<Digest> {
        let listed = self.entries.iter().map(|entry| entry.digest);
        let beside = listed.clone().flat_map(|digest| [step(digest, 1), step(digest, -1)]);
        let ends = [Digest::from_bytes([0; 32]), Digest::from_bytes([0xff; 32])];
        listed.chain(beside).chain(ends).collect()
    }

    fn corrupt(&self, offset_bytes: u64, flip: u8) {
        let name = self.segment.name().to_string();
        self.disk.corrupt(&name, offset_bytes, |bytes| bytes[0] ^= flip);
    }

    fn pages_end(&self) -> u64 {
        self.footer.list_offset_bytes + self.footer.list_page_count * PAGE
    }

    fn footer_start(&self) -> u64 {
        self.segment.file.len_bytes().unwrap() - 240
    }
}

/// The digest that is greater by `by`, as a number; it wraps.
fn step(digest: Digest, by: i128) -> Digest {
    let mut bytes = *digest.as_bytes();
    let low: &mut [u8; 16] = bytes.last_chunk_mut().unwrap();
    *low = u128::from_be_bytes(*low).wrapping_add_signed(by).to_be_bytes();
    Digest::from_bytes(bytes)
}

fn entry(digest: Digest, offset_bytes: u32) -> ListEntry {
    ListEntry { digest, offset_bytes, class: SizeClass(9) }
}

fn uniform(count: u32) -> impl Iterator<Item = ListEntry> {
    (0..count).map(|n| entry(Digest::of(&n.to_le_bytes()), 512 + n))
}

/// A digest with these top 32 bits, and this number in its last bytes.
fn ground(top: u32, number: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&top.to_be_bytes());
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(bytes)
}

#[test]
fn a_digest_is_found_by_one_page() {
    let listed = Listed::new(uniform(20_000));
    let list = listed.open().unwrap();
    let pages = listed.footer.list_page_count;
    assert_eq!(pages, 182);
    let (mut asked, mut reads) = (0, 0);
    for digest in listed.asked() {
        let pages_read = listed.reads(&list, &digest);
        assert!(pages_read <= 2, "{digest}");
        asked += 1;
        reads += pages_read;
    }
    // Two where a page begins with the digest or its neighbours; none before the first page.
    assert!(reads <= asked + 3 * pages, "{reads} pages for {asked} digests");
    assert_eq!(listed.reads(&list, &Digest::from_bytes([0; 32])), 0);
}

#[test]
fn a_list_takes_four_bytes_of_memory_a_page() {
    let small = Listed::new(uniform(100)).open().unwrap().memory_bytes();
    let large = Listed::new(uniform(100 + 110 * 50)).open().unwrap().memory_bytes();
    assert_eq!(large - small, 4 * 50);
    assert!(small < 200, "{small}");
}

#[test]
fn a_segment_without_values_lists_nothing() {
    let listed = Listed::new([]);
    let list = listed.open().unwrap();
    assert_eq!(listed.footer_start(), FRAMES_END_BYTES);
    assert_eq!(listed.reads(&list, &Digest::of(b"value")), 0);
    assert_eq!(check_list(&*listed.disk, &listed.segment, &listed.footer).unwrap(), []);
}

#[test]
fn each_entry_of_a_digest_is_found_over_however_many_pages() {
    for copies in [1, 2, 109, 110, 111, 220, 700] {
        for before in [0, 1, 109, 110, 150] {
            let digest = ground(7, 1 << 40);
            let copies = (0..copies).map(|n| entry(digest, 512 + n));
            let before = (0..before).map(|n| entry(ground(7, n), 512));
            let after = (0..30).map(|n| entry(ground(7, (2 << 40) + n), 512));
            let listed = Listed::new(before.chain(copies).chain(after));
            let list = listed.open().unwrap();
            for digest in listed.asked() {
                listed.reads(&list, &digest);
            }
            let mut first = None;
            let flow = list.find(&*listed.disk, &listed.segment.file, &digest, |entry| {
                assert_eq!(first.replace(entry), None, "it broke");
                ControlFlow::Break(())
            });
            assert!(flow.unwrap().is_break());
            assert_eq!(first, listed.expected(&digest).first().copied());
        }
    }
}

#[test]
fn thousands_of_digests_with_equal_top_bits_cost_time_alone() {
    // Of 30,000 digests all but some begin alike, over 270 pages.
    let alike = (0..30_000).map(|n| entry(ground(0x8000_0000, n * 2), 512));
    let listed = Listed::new(alike.chain(uniform(300)));
    let list = listed.open().unwrap();
    assert!(listed.footer.list_page_count > 270);
    for number in (0..60_010).step_by(7).chain(0..500) {
        let pages_read = listed.reads(&list, &ground(0x8000_0000, number));
        assert!(pages_read <= 1 + 9, "{pages_read}");
    }
    for entry in uniform(300) {
        assert!(listed.reads(&list, &entry.digest) <= 2);
    }
    for top in [0, 0x7fff_ffff, 0x8000_0001, u32::MAX] {
        assert_eq!(listed.find(&list, &ground(top, 4)).unwrap(), []);
    }
}

/// Who looks at a page that nobody checked believes what it shows, and nothing that it does not.
#[test]
fn no_damage_makes_a_page_show_what_it_does_not_list() {
    let listed = Listed::new(uniform(300));
    let list = listed.open().unwrap();
    let asked: Vec<_> = listed.asked().into_iter().step_by(17).take(12).collect();
    let mut hidden = 0;
    for at in 0..DIGEST_PAGE_BYTES {
        for flip in [1 << (at % 8), 0xff] {
            let mut page = listed.pages[..DIGEST_PAGE_BYTES].to_vec();
            page[at] ^= flip;
            for digest in &asked {
                let expected = listed.expected(digest);
                let lists = list.page_lists(0, &page, digest, 511);
                assert!(!lists.unwrap_or(false), "{digest}, damaged at {at}");
                for entry in &expected {
                    let lists = list.page_lists(0, &page, digest, entry.offset_bytes);
                    let is_its = list.pages(digest) == (0..1);
                    assert!(!is_its || !matches!(lists, Ok(false)), "{digest}, damaged at {at}");
                    hidden += usize::from(is_its && lists.is_err());
                }
            }
        }
    }
    assert!(hidden > 100, "{hidden}");
    let digest = &asked[6];
    for len_bytes in 0..60 {
        assert!(list.page_lists(0, &vec![0xff; len_bytes], digest, 512).is_err());
    }
}

#[test]
fn a_damaged_directory_is_made_again() {
    let listed = Listed::new(uniform(1000));
    for offset in listed.pages_end()..listed.footer_start() {
        listed.corrupt(offset, 1 << (offset % 8));
        let list = listed.open().unwrap();
        for entry in &listed.entries {
            assert_eq!(listed.find(&list, &entry.digest).unwrap(), [*entry]);
        }
        let read = read_list(&*listed.disk, &listed.segment, &listed.footer).unwrap();
        assert_eq!(read, listed.entries, "the list does not need it");
        let checked = check_list(&*listed.disk, &listed.segment, &listed.footer);
        is_named(&listed, &checked.unwrap_err(), listed.pages_end());
        listed.corrupt(offset, 1 << (offset % 8));
    }
}

/// The error names the file and a place at or after `start`.
fn is_named(listed: &Listed, error: &WalError, start: u64) {
    let WalError::Format(FormatError::Corrupt { file, offset_bytes, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(*file, listed.segment.name().to_string());
    assert!((start..listed.footer_start()).contains(offset_bytes), "{error}");
}

#[test]
fn each_flipped_byte_of_a_page_is_an_error_or_does_not_matter() {
    let listed = Listed::new(uniform(300));
    let list = listed.open().unwrap();
    for offset in (listed.footer.list_offset_bytes..listed.pages_end()).step_by(3) {
        let page = (offset - listed.footer.list_offset_bytes) / PAGE;
        let page_start = listed.footer.list_offset_bytes + page * PAGE;
        listed.corrupt(offset, 1 << (offset % 8));
        let mut errors = 0;
        for entry in listed.entries.iter().step_by(10) {
            match listed.find(&list, &entry.digest) {
                Ok(found) => assert_eq!(found, [*entry], "byte {offset}"),
                Err(error) => {
                    is_named(&listed, &error, page_start);
                    errors += 1;
                }
            }
        }
        assert!(errors >= 7, "{errors} digests asked for stand in page {page}");
        let read = read_list(&*listed.disk, &listed.segment, &listed.footer);
        is_named(&listed, &read.unwrap_err(), page_start);
        // Without its directory nothing else leads to the pages.
        listed.corrupt(listed.pages_end(), 1);
        is_named(&listed, &listed.open().unwrap_err(), page_start);
        listed.corrupt(listed.pages_end(), 1);
        listed.corrupt(offset, 1 << (offset % 8));
    }
    assert_eq!(read_list(&*listed.disk, &listed.segment, &listed.footer).unwrap(), listed.entries);
}

#[test]
fn each_flipped_byte_of_the_footer_is_an_error() {
    let listed = Listed::new(uniform(300));
    for offset in listed.footer_start()..listed.segment.file.len_bytes().unwrap() {
        listed.corrupt(offset, 1 << (offset % 8));
        let error = read_footer(&*listed.disk, &listed.segment).unwrap_err();
        assert!(matches!(error, WalError::Format(FormatError::Corrupt { .. })), "{error}");
        listed.corrupt(offset, 1 << (offset % 8));
    }
}

#[test]
fn sound_pages_that_were_exchanged_are_an_error() {
    let listed = Listed::new(uniform(300));
    let list = listed.open().unwrap();
    let name = listed.segment.name().to_string();
    let mut bytes = listed.disk.file_bytes(&name).unwrap();
    let start = usize::try_from(listed.footer.list_offset_bytes).unwrap();
    let (first, rest) = bytes[start..].split_at_mut(DIGEST_PAGE_BYTES);
    first.swap_with_slice(&mut rest[..DIGEST_PAGE_BYTES]);
    listed.disk.put_file(&name, &bytes);
    let listed = Listed::of(listed.disk, listed.segment.header, listed.entries);
    for entry in &listed.entries[..220] {
        is_named(&listed, &listed.find(&list, &entry.digest).unwrap_err(), start as u64);
    }
    // Sound pages of another list that stood at this place.
    let other = Listed::new(uniform(301).skip(1));
    let error = read_list(&*other.disk, &other.segment, &listed.footer).unwrap_err();
    is_named(&other, &error, start as u64);
}

#[test]
fn a_list_cut_short_is_an_error() {
    let listed = Listed::new(uniform(300));
    let list = listed.open().unwrap();
    let name = listed.segment.name().to_string();
    let whole = listed.disk.file_bytes(&name).unwrap();
    let start = usize::try_from(listed.footer.list_offset_bytes).unwrap();
    for len in (0..start).step_by(start / 3).chain((start..whole.len() - 240).step_by(97)) {
        listed.disk.put_file(&name, &whole[..len]);
        let file = listed.disk.open(listed.segment.name(), OpenMode::Read).unwrap();
        let (mut errors, pages_left) = (0, (len.max(start) - start) / DIGEST_PAGE_BYTES);
        for entry in &listed.entries {
            let mut found = Vec::new();
            let result = list.find(&*listed.disk, &file, &entry.digest, |entry| {
                found.push(entry);
                ControlFlow::Continue(())
            });
            match result {
                Ok(_) => assert_eq!(found, [*entry], "{len} bytes"),
                Err(WalError::Format(FormatError::Corrupt { .. })) => errors += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(errors, 300 - (pages_left * 110).min(300), "{len} bytes");
    }
}

#[test]
fn a_failed_read_is_the_machines_error() {
    let listed = Listed::new(uniform(300));
    let list = listed.open().unwrap();
    listed.disk.fail_when(Filter::any().operation(Operation::Read), Fault::Eio);
    let digest = listed.entries[150].digest;
    assert!(matches!(listed.find(&list, &digest), Err(WalError::Disk(_))));
    assert!(matches!(listed.open(), Err(WalError::Disk(_))));
    listed.disk.heal();
    assert_eq!(listed.find(&list, &digest).unwrap(), [listed.entries[150]]);
}

#[test]
fn many_threads_look_up_at_once() {
    let listed = Listed::new(uniform(2000));
    let list = listed.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (listed, list) = (&listed, &list);
            scope.spawn(move || {
                for entry in listed.entries.iter().skip(thread).step_by(4) {
                    assert_eq!(listed.find(list, &entry.digest).unwrap(), [*entry]);
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_listed_is_found_and_nothing_else(
        ground_entries in prop::collection::vec((0u32..4, 0u64..40, 512u32..520), 0..1500),
        uniform_count in 0u32..400,
    ) {
        let tops = [0, 1, 0x8000_0000, u32::MAX];
        let ground_entries = ground_entries.into_iter().map(|(top, number, offset)| {
            entry(ground(tops[top as usize], number), offset)
        });
        let listed = Listed::new(ground_entries.chain(uniform(uniform_count)));
        let list = listed.open().unwrap();
        for digest in listed.asked() {
            listed.reads(&list, &digest);
        }
    }

    #[test]
    fn damage_makes_an_error_or_no_difference(
        at: prop::sample::Index,
        with in prop::collection::vec(any::<u8>(), 1..100),
        alike: bool,
    ) {
        let entries = uniform(500).map(|listed| {
            if alike { entry(ground(5, listed.offset_bytes.into()), 512) } else { listed }
        });
        let listed = Listed::new(entries);
        let name = listed.segment.name().to_string();
        let mut bytes = listed.disk.file_bytes(&name).unwrap();
        let start = usize::try_from(FRAMES_END_BYTES).unwrap();
        let at = start + at.index(bytes.len() - start);
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
        listed.disk.put_file(&name, &bytes);
        let file = listed.disk.open(listed.segment.name(), OpenMode::Read).unwrap();
        let segment = SegmentFile { file, ..listed.segment.clone() };
        let Ok((footer, _)) = read_footer(&*listed.disk, &segment) else { return Ok(()) };
        let Ok(list) = DigestList::open(&*listed.disk, &segment, &footer) else { return Ok(()) };
        for entry in &listed.entries {
            let mut found = Vec::new();
            let result = list.find(&*listed.disk, &segment.file, &entry.digest, |entry| {
                found.push(entry);
                ControlFlow::Continue(())
            });
            match result {
                Ok(_) => prop_assert_eq!(&found[..], [*entry]),
                Err(error) => is_named(&listed, &error, FRAMES_END_BYTES),
            }
        }
    }
}
