//! Of several sources of names one: of each name the newest version that any of them gives.
//!
//! 1. Each source's next name stands in a place of its own here; an order of those places says which
//!    comes first, and of one name the newest version first.
//! 2. The first source gives its names itself, one after the other, up to the next source's or the range's end,
//!    whichever comes first: that is one comparison a name, and no copy.
//! 3. Then all sources are moved past the name that was given, each to its place in the order.
//!
//! - G1: a source that has ended is not in the order: the last one left costs no comparisons.

use std::cmp::Ordering;

use pinstone_disk::Digest;

use crate::name_scan::{Head, NameRange, NameSource, Stop};

/// Several sources as one.
#[derive(Debug)]
pub struct NameMerge<S> {
    sources: Vec<S>,
    heads: Vec<Head>,
    /// What a head is read into that another one stands for yet.
    spare: Head,
    /// Sources that stand on a name, the next one first.
    order: Vec<usize>,
    /// The first of these was given.
    is_given: bool,
    backwards: bool,
    is_begun: bool,
}

impl<S: NameSource> NameMerge<S> {
    /// Of sources that all go forwards, or all `backwards`. Asks nothing of them yet.
    pub fn new(sources: Vec<S>, backwards: bool) -> Self {
        let heads = sources.iter().map(|_| Head::default()).collect();
        Self {
            sources,
            heads,
            spare: Head::default(),
            order: Vec::new(),
            is_given: false,
            backwards,
            is_begun: false,
        }
    }

    /// Gives name after name of `range` to `each`, with where its newest version points, if that is no deletion.
    /// Says no once there are no more, those that it comes to are not in the range, or `each` says that it is
    /// enough; else it is to be asked again.
    ///
    /// # Errors
    /// What a source says; none is to be asked again then.
    pub fn give(
        &mut self,
        range: &NameRange,
        each: &mut impl FnMut(&[u8], Option<&Digest>) -> bool,
    ) -> Result<bool, Stop> {
        self.step()?;
        let Some(first) = self.order.first() else { return Ok(false) };
        let head = &self.heads[*first];
        self.is_given = true;
        let is_inside = match self.backwards {
            true => head.name >= range.from,
            false => range.is_before_end(&head.name),
        };
        Ok(is_inside && each(&head.name, head.to.as_ref()) && self.give_run(range, each)?)
    }

    /// Gives what the first source, whose head was given, has before the next source's head and in the range.
    fn give_run(
        &mut self,
        range: &NameRange,
        each: &mut impl FnMut(&[u8], Option<&Digest>) -> bool,
    ) -> Result<bool, Stop> {
        let first = self.order[0];
        let mut head = std::mem::take(&mut self.heads[first]);
        let second = self.order.get(1).map(|second| &self.heads[*second].name[..]);
        if second.is_some_and(|second| *second == head.name) {
            self.heads[first] = head;
            return Ok(true);
        }
        let backwards = self.backwards;
        let end = if backwards { Some(&range.from) } else { range.until.as_ref() };
        let end = end.map(|end| &end[..]);
        let before = if backwards { Ordering::Greater } else { Ordering::Less };
        let limit = match (second, end) {
            (Some(second), Some(end)) if second.cmp(end) == before => Some(second),
            (second, None) => second,
            (_, end) => end,
        };
        // Backwards, the range's end is in it: as a head it is given all the same.
        let is_before = |name: &[u8]| limit.is_none_or(|limit| name.cmp(limit) == before);
        let (mut is_enough, mut is_past) = (false, false);
        let next = &mut self.spare;
        let has_more = self.sources[first].give(&mut head, |name, commit, to| {
            if is_before(name) {
                is_enough = !each(name, to);
                return !is_enough;
            }
            next.set(name, commit, to.copied());
            is_past = true;
            false
        })?;
        if is_past {
            std::mem::swap(&mut head, &mut self.spare);
            self.is_given = false;
        }
        self.heads[first] = head;
        if !has_more {
            self.order.remove(0);
            self.is_given = false;
        } else if !self.is_given {
            self.put_in_order(0);
        }
        Ok(!is_enough)
    }

    /// Goes on to the next name, unless that of the first source was not given.
    fn step(&mut self) -> Result<(), Stop> {
        if !std::mem::replace(&mut self.is_begun, true) {
            return self.begin();
        }
        if !std::mem::replace(&mut self.is_given, false) {
            return Ok(());
        }
        let is_same = |merge: &Self| match merge.order[..] {
            [first, second, ..] => merge.heads[first].name == merge.heads[second].name,
            _ => false,
        };
        while is_same(self) {
            self.advance(1)?;
        }
        self.advance(0)
    }

    fn begin(&mut self) -> Result<(), Stop> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.next(&mut self.heads[index])? {
                self.order.push(index);
            }
        }
        let (heads, backwards) = (&self.heads, self.backwards);
        self.order.sort_by(|a, b| order(&heads[*a], &heads[*b], backwards));
        Ok(())
    }

    /// Moves the source at this place of the order to its next name.
    fn advance(&mut self, at: usize) -> Result<(), Stop> {
        let moved = self.order[at];
        if self.sources[moved].next(&mut self.heads[moved])? {
            self.put_in_order(at);
        } else {
            self.order.remove(at);
        }
        Ok(())
    }

    /// Puts the source at this place of the order behind those that come before it now.
    fn put_in_order(&mut self, at: usize) {
        let moved = self.order[at];
        let (heads, backwards) = (&self.heads, self.backwards);
        let comes_first = |other: &usize| order(&heads[*other], &heads[moved], backwards).is_lt();
        let count = self.order[at + 1..].partition_point(comes_first);
        self.order[at..=at + count].rotate_left(1);
    }
}

/// Names in the direction of the merge, of one name the newest version first.
fn order(left: &Head, right: &Head, backwards: bool) -> Ordering {
    let names = left.name.cmp(&right.name);
    let names = if backwards { names.reverse() } else { names };
    names.then(right.commit.cmp(&left.commit))
}
