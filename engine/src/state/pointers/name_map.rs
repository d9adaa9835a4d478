//! Names in memory with what is known of each: found by a hash, and kept in the order of their bytes.
//!
//! 1. Names stand in *leaves*, some dozens in order, their bytes one after the other. A leaf that is full is
//!    cut in halves, or, if names come in order, left full.
//! 2. The order of leaves is a list of what parts each from the one before: a tree of two levels. Who reads
//!    names in order, or adds one, looks at few places in memory.
//! 3. A hash table leads from a name to its leaf, where a byte of the hash of each name leads to it: one
//!    look, however many names there are and whatever they have in common.
//!
//! - K1: each name has an entry in the hash table, with its hash and its leaf. Entries with both alike stand
//!   for each other.
//! - K2: names of a leaf are not before its `from`, unless it is the first, and those of the leaf before are.
//!   No leaf in the order is empty.
//! - K3: what it takes is known without looking at all of it, or a little more.
//! - K4: strangers choose names: the hash has a seed that they do not know.
//! - K5: of a leaf's bytes no more are of names that were removed than of those that stand and of one more.

use std::ops::Bound;

use pinstone_disk::NAME_BYTES_MAX;
use pinstone_disk::env::{HashTable, NameSeed};

/// Names of a leaf, at most.
const LEAF_NAMES: usize = 64;

/// Leaves behind the last one added to in which a name's place is looked for first.
const NEAR_LEAVES: usize = 4;

/// What the allocator adds to a block of memory, about.
const BLOCK_BYTES: usize = 16;

/// Which leaf: a number that stays, wherever the leaf stands in the order.
type LeafNumber = u32;

/// Names, each with a value.
#[derive(Debug)]
pub(super) struct NameMap<V> {
    leaves: Vec<Leaf<V>>,
    /// Leaves that are empty, and in no order.
    free: Vec<LeafNumber>,
    order: Vec<Edge>,
    /// Which leaf in the order a name was added to last: those of a commit come in order.
    near: usize,
    by_hash: HashTable<Hashed>,
    seed: NameSeed,
    /// Bytes of names: the leaves' and the edges', with what of these is unused.
    name_bytes: usize,
}

/// Some names in order.
#[derive(Debug)]
struct Leaf<V> {
    /// Of each name's hash the last byte.
    tags: Vec<u8>,
    /// Where in `names` each stands: apart from the values, so that who searches looks at few places.
    spans: Vec<Span>,
    values: Vec<V>,
    /// The names' bytes, in any order, and those of names that were removed.
    names: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// What parts a leaf from the one before.
#[derive(Debug)]
struct Edge {
    from: Box<[u8]>,
    leaf: LeafNumber,
}

/// A name in the hash table (K1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hashed {
    /// Both halves: so it takes 12 bytes and not 16.
    hash: [u32; 2],
    leaf: LeafNumber,
}

impl Hashed {
    fn new(hash: u64, leaf: LeafNumber) -> Self {
        let hash = hash.to_le_bytes();
        let half =
            |at: usize| u32::from_le_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
        Self { hash: [half(0), half(4)], leaf }
    }

    fn hash(&self) -> u64 {
        u64::from(self.hash[0]) | u64::from(self.hash[1]) << 32
    }
}

fn tag(hash: u64) -> u8 {
    hash.to_le_bytes()[0]
}

/// A place in the order: which leaf of it, and where in that. Behind the last one is the first of a leaf
/// that there is not.
type Position = (usize, usize);

impl<V> Leaf<V> {
    fn new() -> Self {
        Self { tags: Vec::new(), spans: Vec::new(), values: Vec::new(), names: Vec::new() }
    }

    fn len(&self) -> usize {
        self.spans.len()
    }

    fn name(&self, at: usize) -> &[u8] {
        self.name_of(self.spans[at])
    }

    fn name_of(&self, span: Span) -> &[u8] {
        &self.names[span.start as usize..][..span.len as usize]
    }

    /// Where the name with this hash stands.
    fn find(&self, hash: u64, name: &[u8]) -> Option<usize> {
        let tag = tag(hash);
        let tagged = self.tags.iter().enumerate().filter(|(_, other)| **other == tag);
        tagged.map(|(at, _)| at).find(|at| self.name(*at) == name)
    }

    fn insert(&mut self, at: usize, hash: u64, name: &[u8], value: V) {
        let index = |count: usize| u32::try_from(count).expect("a leaf holds few names of 1 KiB");
        let (start, len) = (index(self.names.len()), index(name.len()));
        self.names.extend_from_slice(name);
        self.tags.insert(at, tag(hash));
        self.spans.insert(at, Span { start, len });
        self.values.insert(at, value);
    }

    fn remove(&mut self, at: usize) {
        self.tags.remove(at);
        self.spans.remove(at);
        self.values.remove(at);
    }

    /// Bytes of the names that it has.
    fn standing_bytes(&self) -> usize {
        self.spans.iter().map(|span| span.len as usize).sum()
    }

    /// More of its bytes are of names that were removed than of those that stand and of one more (K5).
    fn is_loose(&self) -> bool {
        self.names.len() > 2 * self.standing_bytes() + NAME_BYTES_MAX
    }

    /// Lays its names out anew, without those that were removed.
    fn pack(&mut self) {
        let mut names = Vec::with_capacity(self.standing_bytes());
        for span in &mut self.spans {
            let start = u32::try_from(names.len()).expect("they were longer");
            names.extend_from_slice(&self.names[span.start as usize..][..span.len as usize]);
            span.start = start;
        }
        self.names = names;
    }
}

impl<V> NameMap<V> {
    pub(super) fn new(seed: NameSeed) -> Self {
        Self {
            leaves: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
            near: 0,
            by_hash: HashTable::new(),
            seed,
            name_bytes: 0,
        }
    }

    /// Bytes that it takes, but for what values own (K3).
    pub(super) fn memory_bytes(&self) -> usize {
        let entries = match &self.leaves[..] {
            [only] => only.values.capacity(),
            many => many.len() * LEAF_NAMES,
        };
        entries * (size_of::<V>() + size_of::<Span>() + size_of::<u8>())
            + self.leaves.capacity() * (size_of::<Leaf<V>>() + 4 * BLOCK_BYTES)
            + self.order.capacity() * (size_of::<Edge>() + BLOCK_BYTES)
            + self.free.capacity() * size_of::<LeafNumber>()
            + self.by_hash.allocation_size()
            + self.name_bytes
    }

    /// A name's hash, for [`find_mut`](Self::find_mut) and [`insert`](Self::insert).
    pub(super) fn hash(&self, name: &[u8]) -> u64 {
        self.seed.hash(name)
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&V> {
        if self.by_hash.is_empty() {
            return None;
        }
        let (leaf, at) = self.find(self.hash(name), name)?;
        Some(&self.leaves[leaf as usize].values[at])
    }

    pub(super) fn find_mut(&mut self, hash: u64, name: &[u8]) -> Option<&mut V> {
        let (leaf, at) = self.find(hash, name)?;
        Some(&mut self.leaves[leaf as usize].values[at])
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<(LeafNumber, usize)> {
        let mut found = None;
        let _ = self.by_hash.find(hash, |hashed| {
            if hashed.hash() == hash {
                let at = self.leaves[hashed.leaf as usize].find(hash, name);
                found = at.map(|at| (hashed.leaf, at));
            }
            found.is_some()
        });
        found
    }

    /// Adds a name with this hash.
    ///
    /// # Panics
    /// If it is there already.
    pub(super) fn insert(&mut self, hash: u64, name: &[u8], value: V) {
        let mut nth = self.near_leaf_of(name);
        let mut at = self.place_in(nth, |other| other < name);
        match self.order.get(nth).map(|edge| &self.leaves[edge.leaf as usize]) {
            None => self.add_leaf(nth, name, Leaf::new()),
            Some(leaf) if leaf.len() < LEAF_NAMES => {
                assert!(at == leaf.len() || leaf.name(at) != name, "it is new");
            }
            Some(_) if at == LEAF_NAMES && nth + 1 == self.order.len() => {
                // Names that come in order leave full leaves.
                (nth, at) = (nth + 1, 0);
                self.add_leaf(nth, name, Leaf::new());
            }
            Some(_) => {
                self.cut(nth);
                if at > LEAF_NAMES / 2 {
                    (nth, at) = (nth + 1, at - LEAF_NAMES / 2);
                }
            }
        }
        self.near = nth;
        let leaf = self.order[nth].leaf;
        let names = self.leaves[leaf as usize].names.capacity();
        self.leaves[leaf as usize].insert(at, hash, name, value);
        self.name_bytes += self.leaves[leaf as usize].names.capacity() - names;
        self.by_hash.insert_unique(hash, Hashed::new(hash, leaf), Hashed::hash);
    }

    /// Removes a name that is there.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn remove(&mut self, name: &[u8]) {
        let hash = self.seed.hash(name);
        let (nth, at) = self.search(name, |other| other < name);
        let leaf = self.order[nth].leaf;
        assert_eq!(self.leaves[leaf as usize].name(at), name, "it is there");
        self.leaves[leaf as usize].remove(at);
        let hashed = Hashed::new(hash, leaf);
        let entry = self.by_hash.find_entry(hash, |other| *other == hashed);
        entry.expect("each name is in the table (K1)").remove();
        let left = self.leaves[leaf as usize].len();
        let next_count = self
            .order
            .get(nth + 1)
            .map_or(LEAF_NAMES, |edge| self.leaves[edge.leaf as usize].len());
        if left == 0 {
            self.drop_leaf(nth);
        } else if left + next_count <= LEAF_NAMES / 2 {
            let behind = self.drop_leaf(nth + 1);
            self.take_all(leaf, behind);
        } else if self.leaves[leaf as usize].is_loose() {
            self.repack(leaf);
        }
    }

    /// Cuts a leaf in halves.
    fn cut(&mut self, nth: usize) {
        let number = self.order[nth].leaf;
        let leaf = &mut self.leaves[number as usize];
        let mut behind = Leaf {
            tags: Vec::with_capacity(LEAF_NAMES),
            spans: Vec::with_capacity(LEAF_NAMES),
            values: Vec::with_capacity(LEAF_NAMES),
            names: leaf.names.clone(),
        };
        behind.tags.extend(leaf.tags.drain(LEAF_NAMES / 2..));
        behind.spans.extend(leaf.spans.drain(LEAF_NAMES / 2..));
        behind.values.extend(leaf.values.drain(LEAF_NAMES / 2..));
        behind.pack();
        self.repack(number);
        let from: Box<[u8]> = behind.name(0).into();
        self.add_leaf(nth + 1, &from, behind);
        self.rehash(number, self.order[nth + 1].leaf, 0);
    }

    /// Appends to a leaf what another one held, which is gone.
    fn take_all(&mut self, number: LeafNumber, (gone, behind): (LeafNumber, Leaf<V>)) {
        let leaf = &mut self.leaves[number as usize];
        let (before, base, held) = (leaf.len(), leaf.names.len(), leaf.names.capacity());
        let base = u32::try_from(base).expect("a leaf holds few names of 1 KiB");
        leaf.tags.extend(behind.tags);
        leaf.names.extend_from_slice(&behind.names);
        let moved = |span: Span| Span { start: span.start + base, ..span };
        leaf.spans.extend(behind.spans.into_iter().map(moved));
        leaf.values.extend(behind.values);
        self.name_bytes += leaf.names.capacity() - held;
        self.repack(number);
        self.rehash(gone, number, before);
    }

    /// The names of a leaf from this one on were another's before: the table is told.
    fn rehash(&mut self, before: LeafNumber, now: LeafNumber, from: usize) {
        let leaf = &self.leaves[now as usize];
        for at in from..leaf.len() {
            let hash = self.seed.hash(leaf.name(at));
            let old = Hashed::new(hash, before);
            let hashed = self.by_hash.find_mut(hash, |other| *other == old);
            hashed.expect("each name is in the table (K1)").leaf = now;
        }
    }

    /// Lays the names of a leaf out anew.
    fn repack(&mut self, number: LeafNumber) {
        let leaf = &mut self.leaves[number as usize];
        let before = leaf.names.capacity();
        leaf.pack();
        self.name_bytes = self.name_bytes + leaf.names.capacity() - before;
    }

    fn add_leaf(&mut self, nth: usize, from: &[u8], leaf: Leaf<V>) {
        self.name_bytes += from.len() + leaf.names.capacity();
        let number = match self.free.pop() {
            Some(number) => {
                self.leaves[number as usize] = leaf;
                number
            }
            None => {
                self.leaves.push(leaf);
                u32::try_from(self.leaves.len() - 1).expect("so many do not fit into memory")
            }
        };
        self.order.insert(nth, Edge { from: from.into(), leaf: number });
    }

    fn drop_leaf(&mut self, nth: usize) -> (LeafNumber, Leaf<V>) {
        let Edge { from, leaf: number } = self.order.remove(nth);
        let leaf = std::mem::replace(&mut self.leaves[number as usize], Leaf::new());
        self.name_bytes -= from.len() + leaf.names.capacity();
        self.free.push(number);
        (number, leaf)
    }

    /// The names between these bounds with their values, in order, from both ends.
    pub(super) fn range(&self, from: Bound<&[u8]>, until: Bound<&[u8]>) -> Range<'_, V> {
        let front = match from {
            Bound::Unbounded => (0, 0),
            Bound::Included(name) => self.first_not(name, |other| other < name),
            Bound::Excluded(name) => self.first_not(name, |other| other <= name),
        };
        let back = match until {
            Bound::Unbounded => (self.order.len(), 0),
            Bound::Excluded(name) => self.first_not(name, |other| other < name),
            Bound::Included(name) => self.first_not(name, |other| other <= name),
        };
        Range { map: self, front, back }
    }

    fn first_not(&self, name: &[u8], is_before: impl Fn(&[u8]) -> bool) -> Position {
        let (nth, at) = self.search(name, is_before);
        match self.order.get(nth) {
            Some(edge) if at == self.leaves[edge.leaf as usize].len() => (nth + 1, 0),
            _ => (nth, at),
        }
    }

    /// The leaf that `name` belongs to, and how many names in it are before where it belongs.
    fn search(&self, name: &[u8], is_before: impl Fn(&[u8]) -> bool) -> Position {
        let nth = self.leaf_of(name);
        (nth, self.place_in(nth, is_before))
    }

    fn leaf_of(&self, name: &[u8]) -> usize {
        self.order.partition_point(|edge| *edge.from <= *name).saturating_sub(1)
    }

    /// The same, looked for behind the leaf that was added to last.
    fn near_leaf_of(&self, name: &[u8]) -> usize {
        let near = self.order.get(self.near..).unwrap_or(&[]);
        let is_before = |edge: &Edge| *edge.from <= *name;
        if !near.first().is_some_and(is_before) {
            return self.leaf_of(name);
        }
        let behind = near.iter().take(NEAR_LEAVES + 1).position(|edge| !is_before(edge));
        match behind {
            Some(steps) => self.near + steps - 1,
            None if near.len() <= NEAR_LEAVES => self.order.len() - 1,
            None => self.leaf_of(name),
        }
    }

    fn place_in(&self, nth: usize, is_before: impl Fn(&[u8]) -> bool) -> usize {
        self.order.get(nth).map_or(0, |edge| {
            let leaf = &self.leaves[edge.leaf as usize];
            leaf.spans.partition_point(|span| is_before(leaf.name_of(*span)))
        })
    }

    fn leaf(&self, nth: usize) -> &Leaf<V> {
        &self.leaves[self.order[nth].leaf as usize]
    }
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
        let (nth, at) = self.front;
        let leaf = self.map.leaf(nth);
        self.front = if at + 1 < leaf.len() { (nth, at + 1) } else { (nth + 1, 0) };
        Some((leaf.name(at), &leaf.values[at]))
    }
}

impl<V> DoubleEndedIterator for Range<'_, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let (nth, at) = match self.back {
            (nth, 0) => (nth - 1, self.map.leaf(nth - 1).len() - 1),
            (nth, at) => (nth, at - 1),
        };
        self.back = (nth, at);
        let leaf = self.map.leaf(nth);
        Some((leaf.name(at), &leaf.values[at]))
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

    fn insert(map: &mut NameMap<u64>, name: &[u8], value: u64) {
        map.insert(map.hash(name), name, value);
    }

    /// What the map holds is what the model holds, from both ends and in any range.
    fn agrees(map: &NameMap<u64>, model: &BTreeMap<Vec<u8>, u64>, from: &[u8], until: &[u8]) {
        let pairs = |range: Range<'_, u64>| -> Vec<(Vec<u8>, u64)> {
            range.map(|(name, value)| (name.to_vec(), *value)).collect()
        };
        let all: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(pairs(map.range(Bound::Unbounded, Bound::Unbounded)), all);
        let sizes = (0..map.order.len()).map(|nth| map.leaf(nth).len());
        assert!(sizes.clone().all(|size| (1..=LEAF_NAMES).contains(&size)), "K2");
        assert_eq!((sizes.sum(), map.by_hash.len()), (model.len(), model.len()), "K1");
        let held = map.leaves.iter().map(|leaf| leaf.names.capacity()).sum::<usize>();
        let edges = map.order.iter().map(|edge| edge.from.len()).sum::<usize>();
        assert_eq!(map.name_bytes, held + edges, "K3");
        assert!((0..map.order.len()).all(|nth| !map.leaf(nth).is_loose()), "K5");
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
                insert(&mut map, &name(number), number);
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
                insert(&mut map, &name(number), number);
                model.insert(name(number), number);
            }
            agrees(&map, &model, b"", b"b");
            assert!(map.memory_bytes() > before);
        }
    }

    #[test]
    fn names_that_come_and_go_leave_no_bytes() {
        let mut map = map();
        for number in 0..5 {
            insert(&mut map, &[b'a', number], 0);
        }
        let (before, long) = (map.memory_bytes(), [b'n'; NAME_BYTES_MAX]);
        for round in 0..1000 {
            insert(&mut map, &long, round);
            map.remove(&long);
        }
        let after = map.memory_bytes();
        assert!(after <= before + 4 * NAME_BYTES_MAX, "{after} bytes, {before} before");
    }

    proptest! {
        #[test]
        fn it_is_what_a_sorted_map_is(
            steps in prop::collection::vec((prop::collection::vec(0..4u8, 0..4), any::<bool>()), 0..400),
            bounds in prop::array::uniform2(prop::collection::vec(0..4u8, 0..4)),
        ) {
            let (mut map, mut model) = (map(), BTreeMap::new());
            for (number, (name, is_removal)) in (0..).zip(steps) {
                match map.find_mut(map.hash(&name), &name) {
                    Some(_) if is_removal => {
                        map.remove(&name);
                        model.remove(&name);
                    }
                    Some(value) => {
                        *value = number;
                        model.insert(name, number);
                    }
                    None => {
                        insert(&mut map, &name, number);
                        model.insert(name, number);
                    }
                }
            }
            let [from, until] = bounds;
            agrees(&map, &model, &from, &until);
        }
    }
}
