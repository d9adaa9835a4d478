//! Of several sources of names one: of each name the newest version that any of them gives.
//!
//! 1. Each source's next name stands in a place of its own here; an order of those places says which
//!    comes first, and of one name the newest version first.
//! 2. A step moves all sources past the name that was given, each to its place in the order. Where
//!    one source's names follow each other, that is one comparison.
//!
//! - G1: a source that has ended is not in the order: the last one left costs no comparisons.

use std::cmp::Ordering;

use crate::error::TableError;
use crate::name_scan::{Head, NameSource};

/// Several sources as one.
#[derive(Debug)]
pub struct NameMerge<S> {
    sources: Vec<S>,
    heads: Vec<Head>,
    /// Sources that stand on a name, the next one first.
    order: Vec<usize>,
    backwards: bool,
    is_begun: bool,
}

impl<S: NameSource> NameMerge<S> {
    /// Of sources that all go forwards, or all `backwards`. Asks nothing of them yet.
    pub fn new(sources: Vec<S>, backwards: bool) -> Self {
        let heads = sources.iter().map(|_| Head::default()).collect();
        Self { sources, heads, order: Vec::new(), backwards, is_begun: false }
    }

    /// The next name, with the newest version of it, be it a deletion.
    ///
    /// # Errors
    /// What a source says; it is not to be asked again then.
    #[inline]
    pub fn step(&mut self) -> Result<Option<&Head>, TableError> {
        if self.is_begun && self.order.len() == 1 {
            self.advance(0)?;
        } else {
            self.step_all()?;
        }
        Ok(self.order.first().map(|first| &self.heads[*first]))
    }

    fn step_all(&mut self) -> Result<(), TableError> {
        if !std::mem::replace(&mut self.is_begun, true) {
            return self.begin();
        }
        let is_same = |merge: &Self| match merge.order[..] {
            [first, second, ..] => merge.heads[first].name == merge.heads[second].name,
            _ => false,
        };
        while is_same(self) {
            self.advance(1)?;
        }
        if self.order.is_empty() { Ok(()) } else { self.advance(0) }
    }

    fn begin(&mut self) -> Result<(), TableError> {
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
    #[inline]
    fn advance(&mut self, at: usize) -> Result<(), TableError> {
        let moved = self.order[at];
        if !self.sources[moved].next(&mut self.heads[moved])? {
            self.order.remove(at);
            return Ok(());
        }
        let (heads, backwards) = (&self.heads, self.backwards);
        let comes_first = |other: &usize| order(&heads[*other], &heads[moved], backwards).is_lt();
        let behind = &self.order[at + 1..];
        if behind.first().is_some_and(comes_first) {
            let count = behind.partition_point(comes_first);
            self.order[at..=at + count].rotate_left(1);
        }
        Ok(())
    }
}

/// Names in the direction of the merge, of one name the newest version first.
fn order(left: &Head, right: &Head, backwards: bool) -> Ordering {
    let names = left.name.cmp(&right.name);
    let names = if backwards { names.reverse() } else { names };
    names.then(right.commit.cmp(&left.commit))
}
