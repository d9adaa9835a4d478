//! Taking a store over: its root written anew, with a new epoch, and space set aside. An open does that if it has
//! anything to mend or to remove; else whoever first writes something does, so that a store which is only read
//! stays as it was closed (decision 0018).

use std::sync::Arc;

use pinstone_disk::{Disk, DiskError, File};

use crate::error::{Error, Result};
use crate::state::reserve::{Left, Reserve};
use crate::state::root::{Root, reserve};

/// What it takes.
#[derive(Debug)]
pub(crate) struct TakeOver {
    /// What the last open left set aside.
    pub(crate) left: Option<Left>,
    /// The options ask for nothing set aside.
    pub(crate) is_unreserved: bool,
    /// Bytes that a copy of the pointer log's last segment takes, if it is long.
    pub(crate) tail_bytes: u64,
    /// The segments that are appended to, and the bytes that each is to have.
    pub(crate) active: Vec<(Arc<dyn File>, u64)>,
}

impl TakeOver {
    /// It is to be done now: not all of what the last open left is set aside any more. An open was killed that had
    /// given it back.
    pub(crate) fn is_due(&self, root: &Root) -> Result<bool> {
        match &self.left {
            Some(left) if !self.is_unreserved => {
                Ok(!left.is_whole(root.record_bytes(), self.tail_bytes)?)
            }
            _ => Ok(false),
        }
    }

    /// Takes over a store that is at rest; the root says as before that it is closed. Begun anew, it goes on where it
    /// failed.
    ///
    /// # Errors
    /// Nothing has changed by then, or the root is this writer's, and space yet to be set aside; a failed sync, and
    /// CURRENT of which it is not known what it names, end writing.
    pub(crate) fn carry_out(&self, disk: &dyn Disk, root: &Root, reserve: &Reserve) -> Result<()> {
        let after = |error| reserve.after(error).into();
        with_left(disk, self.left.as_ref(), after, || Ok(root.take_over()?))?;
        self.set_aside(disk, root, reserve)
    }

    /// Sets space aside, as much as there is: first what the next open needs.
    ///
    /// # Errors
    /// Not all that there is could be set aside.
    pub(crate) fn set_aside(&self, disk: &dyn Disk, root: &Root, held: &Reserve) -> Result<()> {
        if self.is_unreserved
            && let Some(left) = &self.left
        {
            left.give_back(disk).map_err(|error| held.after(error))?;
        }
        if root.has_values() {
            let left = self.left.as_ref();
            held.hold_what_there_is(root.record_bytes(), self.tail_bytes, left)?;
        }
        root.reserve()?;
        if held.is_whole() {
            for (file, bytes) in &self.active {
                reserve(&**file, *bytes)?;
            }
        }
        Ok(())
    }
}

/// Does what takes the store over; if there is no space, once more with what the last open left. If it fails all the
/// same, that is set aside again. `after` is told what fails of that.
///
/// # Errors
/// What it failed with last.
pub(crate) fn with_left<T>(
    disk: &dyn Disk,
    left: Option<&Left>,
    after: impl Fn(DiskError) -> Error,
    mut act: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut done = act();
    let Some(left) = left else { return done };
    if let Err(Error::NoSpace { .. }) = &done {
        // It holds nothing. What was begun is what a crash would have left.
        done = left.give_back(disk).map_err(&after).and_then(|()| act());
    }
    if done.is_err()
        && let Err(error) = left.hold_again(disk)
    {
        let error = after(error);
        tracing::warn!(%error, "what was set aside is not any more");
    }
    done
}
