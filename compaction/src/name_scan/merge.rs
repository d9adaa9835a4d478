//! Of several sources of names one: of each name the newest version that any of them gives.
//!
//! 1. Each source's next name stands in a place of its own here; an order of those places says which
//!    comes first, and of one name the newest version first.
//! 2. The first source gives its names itself, one after the other, up to the next source's: that is one
//!    comparison a name, none if there is no other source, and no copy.
//! 3. Then all sources are moved past the name that was given, each to its place in the order.
//!
//! - G1: a source that has ended is not in the order: the last one left costs no comparisons.

use std::cmp::Ordering;

use pinstone_disk::Digest;

use crate::name_scan::{Head, NameSource, Stop};

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

    /// Gives name after name to `each`, with where its newest version points, if that is no deletion. Says no
    /// once there are no more up to `end` (forwards that one is not given, backwards it is), or `each` says that it
    /// is enough; else it is to be asked again.
    ///
    /// # Errors
    /// What a source says; none is to be asked again then.
    #[inline]
    pub fn give(
        &mut self,
        end: Option<&[u8]>,
        each: &mut impl FnMut(&[u8], Option<&Digest>) -> bool,
    ) -> Result<bool, Stop> {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.begin()?;
        }
        if std::mem::replace(&mut self.is_given, false) {
            self.pass()?;
        }
        let Some(first) = self.order.first() else { return Ok(false) };
        let head = &self.heads[*first];
        self.is_given = true;
        let is_inside = end.is_none_or(|end| match self.backwards {
            true => head.name[..] >= *end,
            false => head.name[..] < *end,
        });
        // Of a name that others have, too, all are passed before the next is given.
        Ok(is_inside
            && each(&head.name, head.to.as_ref())
            && (self.is_shared() || self.give_run(end, each)?))
    }

    /// Gives what the first source, whose head was given, has before the next source's head, which is another.
    fn give_run(
        &mut self,
        end: Option<&[u8]>,
        each: &mut impl FnMut(&[u8], Option<&Digest>) -> bool,
    ) -> Result<bool, Stop> {
        let first = self.order[0];
        let mut head = std::mem::take(&mut self.heads[first]);
        let second = self.order.get(1).map(|second| &self.heads[*second].name[..]);
        let before = if self.backwards { Ordering::Greater } else { Ordering::Less };
        let limit = match (second, end) {
            (Some(second), Some(end)) if end.cmp(second) == before => Some(end),
            (second, end) => second.or(end),
        };
        let mut is_enough = false;
        // How what ends the run compares to the limit. Backwards, the end is in it: as a head it is given all the
        // same.
        let mut past = None;
        let next = &mut self.spare;
        let has_more = self.sources[first].give(&mut head, |name, commit, to| {
            let compared = limit.map_or(before, |limit| name.cmp(limit));
            if compared == before {
                is_enough = !each(name, to);
                return !is_enough;
            }
            next.set(name, commit, to.copied());
            past = Some(compared);
            false
        })?;
        if past.is_some() {
            std::mem::swap(&mut head, &mut self.spare);
        }
        self.heads[first] = head;
        if !has_more {
            self.order.remove(0);
        } else if let Some(compared) = past {
            // Past another limit than the second's head nothing is given any more, in whatever order.
            self.put_in_order(0, usize::from(compared.is_ne()));
        }
        self.is_given = has_more && past.is_none();
        Ok(!is_enough)
    }

    /// The second source stands on the first one's name, too.
    fn is_shared(&self) -> bool {
        match self.order[..] {
            [first, second, ..] => self.heads[first].name == self.heads[second].name,
            _ => false,
        }
    }

    /// Goes on to the next name.
    fn pass(&mut self) -> Result<(), Stop> {
        while self.is_shared() {
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
            self.put_in_order(at, 0);
        } else {
            self.order.remove(at);
        }
        Ok(())
    }

    /// Puts the source at this place of the order behind those that come before it now: the next `before_count` of
    /// them do.
    fn put_in_order(&mut self, at: usize, before_count: usize) {
        let moved = self.order[at];
        let (heads, backwards) = (&self.heads, self.backwards);
        let comes_first = |other: &usize| order(&heads[*other], &heads[moved], backwards).is_lt();
        let before_count = before_count.min(self.order.len() - at - 1);
        let rest = &self.order[at + 1 + before_count..];
        let count = before_count + rest.partition_point(comes_first);
        self.order[at..=at + count].rotate_left(1);
    }
}

/// Names in the direction of the merge, of one name the newest version first.
fn order(left: &Head, right: &Head, backwards: bool) -> Ordering {
    let names = left.name.cmp(&right.name);
    let names = if backwards { names.reverse() } else { names };
    names.then(right.commit.cmp(&left.commit))
}
