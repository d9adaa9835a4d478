//! Names in memory with what is known of each: found by a hash, and kept in the order of their bytes.
//!
//! 1. A name has a *place*: a slot of a slab, where its value stands, too.
//! 2. A hash table leads from a name to its place: one look, however many names there are and whatever
//!    they have in common.
//! 3. *Runs* of places stand in the order of the names: a tree of two levels. A run that is full is cut in
//!    halves, or, if names come in order, left full.
//!
//! - K1: each name's place stands once in the hash table and once in the runs; no run is empty.
//! - K2: what it takes is known without looking at all of it, or a little more.
//! - K3: strangers choose names: the hash has a seed that they do not know.

use std::ops::Bound;

use pinstone_disk::env::{HashTable, NameSeed};

/// Places of a slab, at most: it grows to this and no further, so that nothing large is moved.
const SLAB_PLACES: usize = 1 << SLAB_BITS;
const SLAB_BITS: u32 = 10;

/// Places of a run, at most.
const RUN_PLACES: usize = 512;

/// What the allocator adds to a name, about.
const BLOCK_BYTES: usize = 16;

/// Where a name and its value stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

/// A name with its value; none where one was removed.
type Slot<V> = Option<(Box<[u8]>, V)>;

/// Names, each with a value.
#[derive(Debug)]
pub(super) struct NameMap<V> {
    slabs: Vec<Vec<Slot<V>>>,
    /// Places of names that were removed.
    free: Vec<Place>,
    by_hash: HashTable<Place>,
    seed: NameSeed,
    runs: Vec<Vec<Place>>,
    name_bytes: usize,
}

/// A place in the runs: which run, and where in it. Behind the last one is the first of a run that there
/// is not.
type Position = (usize, usize);

impl<V> NameMap<V> {
    pub(super) fn new(seed: NameSeed) -> Self {
        Self {
            slabs: Vec::new(),
            free: Vec::new(),
            by_hash: HashTable::new(),
            seed,
            runs: Vec::new(),
            name_bytes: 0,
        }
    }

    /// Bytes that it takes, but for what values own (K2).
    pub(super) fn memory_bytes(&self) -> usize {
        let slots = self.slabs.first().map_or(0, Vec::capacity) * self.slabs.len();
        let places =
            self.runs.first().map_or(0, Vec::capacity).max(RUN_PLACES / 8) * self.runs.len();
        let vectors = self.slabs.capacity() + self.runs.capacity();
        slots * size_of::<Slot<V>>()
            + (places + self.free.capacity()) * size_of::<Place>()
            + vectors * size_of::<Vec<()>>()
            + self.by_hash.allocation_size()
            + self.name_bytes
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&V> {
        let place = *self.by_hash.find(self.hash(name), |place| self.name(*place) == name)?;
        Some(&self.slot(place).1)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut V> {
        let place = *self.by_hash.find(self.hash(name), |place| self.name(*place) == name)?;
        let Place(number) = place;
        let slot = &mut self.slabs[(number >> SLAB_BITS) as usize][number as usize % SLAB_PLACES];
        slot.as_mut().map(|(_, value)| value)
    }

    /// Adds a name.
    ///
    /// # Panics
    /// If it is there already.
    pub(super) fn insert(&mut self, name: &[u8], value: V) {
        let (run, at) = self.position(name);
        assert!(self.place_at((run, at)).is_none_or(|place| self.name(place) != name), "it is new");
        let place = self.put((name.into(), value));
        self.name_bytes += name.len() + BLOCK_BYTES;
        let hash = self.hash(name);
        let (slabs, seed) = (&self.slabs, self.seed);
        let rehash = |place: &Place| seed.hash(&slot_of(slabs, *place).0);
        self.by_hash.insert_unique(hash, place, rehash);
        self.put_in_order(run, at, place);
    }

    fn put_in_order(&mut self, mut run: usize, mut at: usize, place: Place) {
        if run == self.runs.len() {
            // Behind all: names that come in order leave full runs.
            match self.runs.last_mut() {
                Some(last) if last.len() < RUN_PLACES => last.push(place),
                _ => self.runs.push(vec![place]),
            }
            return;
        }
        if self.runs[run].len() == RUN_PLACES {
            let mut behind = Vec::with_capacity(RUN_PLACES);
            behind.extend(self.runs[run].drain(RUN_PLACES / 2..));
            self.runs.insert(run + 1, behind);
            if at > RUN_PLACES / 2 {
                (run, at) = (run + 1, at - RUN_PLACES / 2);
            }
        }
        self.runs[run].insert(at, place);
    }

    /// Removes a name that is there.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn remove(&mut self, name: &[u8]) {
        let (run, at) = self.position(name);
        let place = self.runs[run].remove(at);
        assert_eq!(self.name(place), name, "it is there");
        let next_count = self.runs.get(run + 1).map_or(RUN_PLACES, Vec::len);
        if self.runs[run].is_empty() {
            self.runs.remove(run);
        } else if self.runs[run].len() + next_count <= RUN_PLACES / 2 {
            let behind = self.runs.remove(run + 1);
            self.runs[run].extend(behind);
        }
        let is_it = |other: &Place| *other == place;
        let entry = self.by_hash.find_entry(self.hash(name), is_it);
        entry.expect("each place stands in the table (K1)").remove();
        self.name_bytes -= name.len() + BLOCK_BYTES;
        let Place(number) = place;
        self.slabs[(number >> SLAB_BITS) as usize][number as usize % SLAB_PLACES] = None;
        self.free.push(place);
    }

    /// The names between these bounds with their values, in order, from both ends.
    pub(super) fn range(&self, from: Bound<&[u8]>, until: Bound<&[u8]>) -> Range<'_, V> {
        let front = match from {
            Bound::Unbounded => (0, 0),
            Bound::Included(name) => self.position(name),
            Bound::Excluded(name) => self.position_behind(name),
        };
        let back = match until {
            Bound::Unbounded => (self.runs.len(), 0),
            Bound::Excluded(name) => self.position(name),
            Bound::Included(name) => self.position_behind(name),
        };
        Range { map: self, front, back }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.seed.hash(name)
    }

    fn slot(&self, place: Place) -> &(Box<[u8]>, V) {
        slot_of(&self.slabs, place)
    }

    fn name(&self, place: Place) -> &[u8] {
        &self.slot(place).0
    }

    fn put(&mut self, slot: (Box<[u8]>, V)) -> Place {
        if let Some(place) = self.free.pop() {
            let Place(number) = place;
            self.slabs[(number >> SLAB_BITS) as usize][number as usize % SLAB_PLACES] = Some(slot);
            return place;
        }
        if self.slabs.last().is_none_or(|last| last.len() == SLAB_PLACES) {
            let first_count = if self.slabs.is_empty() { 0 } else { SLAB_PLACES };
            self.slabs.push(Vec::with_capacity(first_count));
        }
        let before = (self.slabs.len() - 1) << SLAB_BITS;
        let last = self.slabs.last_mut().expect("one was added if there was none");
        last.push(Some(slot));
        let number = before + last.len() - 1;
        Place(u32::try_from(number).expect("so many names do not fit into memory"))
    }

    /// Where the first name stands that is not before this one.
    fn position(&self, name: &[u8]) -> Position {
        self.first_not(|other| other < name)
    }

    /// Where the first name stands that is behind this one.
    fn position_behind(&self, name: &[u8]) -> Position {
        self.first_not(|other| other <= name)
    }

    fn first_not(&self, is_before: impl Fn(&[u8]) -> bool) -> Position {
        let is_before = |place: &Place| is_before(self.name(*place));
        let run = self.runs.partition_point(|run| run.last().is_some_and(is_before));
        let at = self.runs.get(run).map_or(0, |places| places.partition_point(is_before));
        (run, at)
    }

    fn place_at(&self, (run, at): Position) -> Option<Place> {
        self.runs.get(run)?.get(at).copied()
    }
}

fn slot_of<V>(slabs: &[Vec<Slot<V>>], Place(number): Place) -> &(Box<[u8]>, V) {
    let slot = &slabs[(number >> SLAB_BITS) as usize][number as usize % SLAB_PLACES];
    slot.as_ref().expect("places lead to names (K1)")
}

/// Names of a range; see [`NameMap::range`].
pub(super) struct Range<'a, V> {
    map: &'a NameMap<V>,
    front: Position,
    back: Position,
}

impl<'a, V> Iterator for Range<'a, V> {
    type Item = (&'a [u8], &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let (run, at) = self.front;
        let places = &self.map.runs[run];
        self.front = if at + 1 < places.len() { (run, at + 1) } else { (run + 1, 0) };
        let (name, value) = self.map.slot(places[at]);
        Some((name, value))
    }
}

impl<V> DoubleEndedIterator for Range<'_, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let (run, at) = self.back;
        let (run, at) = match at.checked_sub(1) {
            Some(before) => (run, before),
            None => (run - 1, self.map.runs[run - 1].len() - 1),
        };
        self.back = (run, at);
        let (name, value) = self.map.slot(self.map.runs[run][at]);
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn map() -> NameMap<u64> {
        NameMap::new(NameSeed::new([3; 16]))
    }

    /// What the map holds is what the model holds, from both ends and in any range.
    fn agrees(map: &NameMap<u64>, model: &BTreeMap<Vec<u8>, u64>, from: &[u8], until: &[u8]) {
        let pairs = |range: Range<'_, u64>| -> Vec<(Vec<u8>, u64)> {
            range.map(|(name, value)| (name.to_vec(), *value)).collect()
        };
        let all: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(pairs(map.range(Bound::Unbounded, Bound::Unbounded)), all);
        assert!(map.runs.iter().all(|run| (1..=RUN_PLACES).contains(&run.len())), "K1");
        let mut reversed: Vec<_> = map.range(Bound::Unbounded, Bound::Unbounded).rev().collect();
        reversed.reverse();
        assert!(reversed.iter().map(|(name, _)| *name).eq(all.iter().map(|(name, _)| &name[..])));
        let within = |bounds: (Bound<&[u8]>, Bound<&[u8]>)| {
            let wanted: Vec<_> = all
                .iter()
                .filter(|(name, _)| std::ops::RangeBounds::<[u8]>::contains(&bounds, &name[..]))
                .cloned()
                .collect();
            assert_eq!(pairs(map.range(bounds.0, bounds.1)), wanted, "{bounds:?}");
        };
        within((Bound::Included(from), Bound::Excluded(until)));
        within((Bound::Excluded(from), Bound::Included(until)));
        within((Bound::Unbounded, Bound::Excluded(until)));
        for (name, value) in model {
            assert_eq!(map.get(name), Some(value));
        }
    }

    #[test]
    fn names_in_order_backwards_and_mixed_are_all_found() {
        let name = |number: u64| format!("a/name/{number:05}").into_bytes();
        let orders: [fn(u64) -> u64; 3] = [|n| n, |n| 2999 - n, |n| n * 1013 % 3000];
        for order in orders {
            let (mut map, mut model) = (map(), BTreeMap::new());
            for number in (0..3000).map(order) {
                map.insert(&name(number), number);
                model.insert(name(number), number);
            }
            agrees(&map, &model, &name(511), &name(1025));
            for number in (0..3000).map(order).filter(|number| number % 7 > 0) {
                map.remove(&name(number));
                model.remove(&name(number));
                assert_eq!(map.get(&name(number)), None);
            }
            agrees(&map, &model, &name(7), &name(2900));
            let before = map.memory_bytes();
            for number in (0..3000).map(order).filter(|number| number % 7 > 0) {
                map.insert(&name(number), number);
                model.insert(name(number), number);
            }
            agrees(&map, &model, b"", b"b");
            assert!(map.slabs.len() == 3, "places are used again");
            assert!(map.memory_bytes() > before);
        }
    }

    proptest! {
        #[test]
        fn it_is_what_a_sorted_map_is(
            steps in prop::collection::vec((prop::collection::vec(0..4u8, 0..4), any::<bool>()), 0..400),
            bounds in prop::array::uniform2(prop::collection::vec(0..4u8, 0..4)),
        ) {
            let (mut map, mut model) = (map(), BTreeMap::new());
            for (number, (name, is_removal)) in (0..).zip(steps) {
                match map.get_mut(&name) {
                    Some(_) if is_removal => {
                        map.remove(&name);
                        model.remove(&name);
                    }
                    Some(value) => {
                        *value = number;
                        model.insert(name, number);
                    }
                    None => {
                        map.insert(&name, number);
                        model.insert(name, number);
                    }
                }
            }
            let [from, until] = bounds;
            agrees(&map, &model, &from, &until);
        }
    }
}
