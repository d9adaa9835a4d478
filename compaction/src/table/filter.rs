//! A static filter over 64-bit keys: is a key surely not in a set, or maybe? And the keys that names
//! and digests have in it.
//!
//! 1. [`Filter::build`] sorts the keys, removes duplicates, and has `xorf` construct a binary fuse
//!    filter (Graf and Lemire, 2022) of them: each key has three places among the *fingerprints*,
//!    whose exclusive or is the key's own fingerprint of 8 bits.
//! 2. [`Filter::may_contain`] computes the three places and compares. One key in 256 that is not in
//!    the set is taken to be.
//! 3. [`Filter::encode`] and [`Filter::decode`] are the form on disk. What makes a filter out of
//!    keys is a choice of each build; what a filter's bytes say of a key is part of the format, and
//!    is computed here and not by the crate that constructs.
//!
//! `docs/format.md` has the layout, and what it says of a key; its letters are used here.
//!
//! - F1: a key of the set is never denied. `build` asks for each key before it returns the filter.
//! - F2: of equal sets, filters are equal to the byte, on every machine.
//! - F3: what `decode` accepted is never read beyond its bounds: a place changed by the low *b* bits
//!   stays in its segment, and there are *n* + 2 segments.
//! - F4: strangers choose names and can grind digests. Knowing what a key will be, they could make
//!   sets for which the construction fails a thousand times over, or names that the filter lets
//!   through. So keys are made with a seed that the table draws and keeps.
//!
//! A filter may cost time, never truth: without one, or with a damaged one, one looks.

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, size};
use siphasher::sip::SipHasher13;
use xorf::BinaryFuse8;

/// Most keys of one filter: its construction takes 25 MiB, some 25 bytes a key. Of 65,280 keys it takes
/// 1.6 MiB, and is faster a key, as it stays in the processor's caches; the filter has half a bit more
/// a key then, and may be read and dropped by itself.
pub const FILTER_KEYS_MAX: usize = 1 << 20;

/// Bytes of a filter before the fingerprints.
pub const FILTER_HEADER_BYTES: usize = 24;

const KIND: u8 = 1;
const SEGMENT_BITS_MIN: u8 = 2;
const SEGMENT_BITS_MAX: u8 = 18;

/// The key of `name` in the filters of a table with this seed: SipHash-1-3 under the key
/// (`seed`, 0).
pub fn name_key(name: &[u8], seed: u64) -> u64 {
    SipHasher13::new_with_keys(seed, 0).hash(name)
}

/// The key of a digest, or of an index entry, that begins with the 64 bits of `prefix`, in the
/// filters of a table with this seed. The bits are as good as hashed already: the seed only hides
/// from strangers what the filter will make of them.
pub fn digest_key(prefix: u64, seed: u64) -> u64 {
    prefix ^ seed
}

/// A set of keys that answers "no", surely, or "maybe". A clone shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    seed: u64,
    segment_bits: u8,
    segment_count: u32,
    key_count: u32,
    fingerprints: Bytes,
}

impl Filter {
    /// The filter of these keys, which are sorted, and each kept once. `None` if there are none or
    /// more than [`FILTER_KEYS_MAX`], and if the construction fails, as it practically never does
    /// with keys that nobody chose (F4): the table then does without.
    ///
    /// Costs some 50 ns a key, and 25 bytes of memory a key while it lasts; where the construction
    /// fails, a thousand times as long.
    pub fn build(keys: &mut Vec<u64>) -> Option<Self> {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() || keys.len() > FILTER_KEYS_MAX {
            return None;
        }
        let key_count = u32::try_from(keys.len()).ok()?;
        let built = BinaryFuse8::try_from(keys.as_slice()).ok()?;
        let segment_length = built.descriptor.segment_length;
        let filter = Self {
            seed: built.descriptor.seed,
            segment_bits: u8::try_from(segment_length.checked_ilog2()?).ok()?,
            segment_count: built.descriptor.segment_count_length.checked_div(segment_length)?,
            key_count,
            fingerprints: built.fingerprints.into(),
        };
        // F1: should another version of the crate ever compute places in another way, then tables
        // have no filters, and no key is denied.
        let sound = filter.check(0).is_ok() && keys.iter().all(|key| filter.may_contain(*key));
        sound.then_some(filter)
    }

    /// False if `key` is surely not in the set. Reads three bytes, each in another line of memory.
    #[inline]
    pub fn may_contain(&self, key: u64) -> bool {
        let hash = mix(key.wrapping_add(self.seed));
        let segment_length = 1u64 << self.segment_bits;
        let mask = segment_length - 1;
        let first_places = u64::from(self.segment_count) << self.segment_bits;
        let first = high_half(u128::from(hash) * u128::from(first_places));
        let second = (first + segment_length) ^ ((hash >> 18) & mask);
        let third = (first + 2 * segment_length) ^ (hash & mask);
        let places = [first, second, third];
        let found = places.map(|place| self.fingerprints[size(place)]);
        found[0] ^ found[1] ^ found[2] == fingerprint(hash)
    }

    /// Keys in the set, each counted once.
    pub fn key_count(&self) -> u32 {
        self.key_count
    }

    /// Bytes of the filter, which it keeps in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.fingerprints.len()
    }

    /// The filter's bytes, their checksum bound to their place: `seed` is the file's, and the filter
    /// will stand at `offset_bytes` in it.
    #[expect(clippy::missing_panics_doc, reason = "its header is put together here")]
    pub fn encode(&self, seed: Seed, offset_bytes: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILTER_HEADER_BYTES + self.fingerprints.len());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[KIND, self.segment_bits, 0, 0]);
        bytes.extend_from_slice(&self.segment_count.to_le_bytes());
        bytes.extend_from_slice(&self.key_count.to_le_bytes());
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        assert_eq!(bytes.len(), FILTER_HEADER_BYTES);
        bytes.extend_from_slice(&self.fingerprints);
        let crc = seed.at(offset_bytes, &[&bytes[4..]]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The filter in `bytes`, all of them, which stand at `offset_bytes` of the file with this
    /// `seed`. Keeps `bytes`, which must not change; allocates nothing.
    ///
    /// # Errors
    /// The checksum does not match, or a field does not fit the others: do without the filter.
    pub fn decode(bytes: &Bytes, seed: Seed, offset_bytes: u64) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let crc = reader.u32("a filter's checksum")?;
        if crc != seed.at(offset_bytes, &[&bytes[4..]]) {
            return Err(Malformed { offset: 0, what: "the checksum of the filter's bytes" });
        }
        if reader.u8("a filter's kind")? != KIND {
            return Err(Malformed { offset: 4, what: "a kind of filter that this build knows" });
        }
        let segment_bits = reader.u8("a segment's bits")?;
        if reader.u16("zeros")? != 0 {
            return Err(Malformed { offset: 6, what: "zeros" });
        }
        let segment_count = reader.u32("a count of segments")?;
        let key_count = reader.u32("a count of keys")?;
        let seed = reader.u64("a filter's seed")?;
        let fingerprints = bytes.slice(reader.offset()..);
        let filter = Self { seed, segment_bits, segment_count, key_count, fingerprints };
        filter.check(reader.offset())?;
        Ok(filter)
    }

    /// F3, of a filter whose fingerprints begin at this offset.
    fn check(&self, offset: usize) -> Result<(), Malformed> {
        let malformed = |what| Err(Malformed { offset, what });
        if !(SEGMENT_BITS_MIN..=SEGMENT_BITS_MAX).contains(&self.segment_bits) {
            return malformed("a segment of 4 to 262,144 fingerprints");
        }
        let expected = (u64::from(self.segment_count) + 2) << self.segment_bits;
        if self.segment_count == 0 || self.fingerprints.len() as u64 != expected {
            return malformed("as many fingerprints as the segments have");
        }
        if self.key_count == 0 || u64::from(self.key_count) > expected {
            return malformed("a count of keys that the fingerprints can tell apart");
        }
        Ok(())
    }
}

/// The finalizer of MurmurHash3.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

fn fingerprint(hash: u64) -> u8 {
    (hash ^ (hash >> 32)).to_le_bytes()[0]
}

fn high_half(product: u128) -> u64 {
    (product >> 64) as u64
}
