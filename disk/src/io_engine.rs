//! Which I/O engine carries out batches: io_uring where the kernel lets us, else positioned calls; and
//! whether sealed files are mapped into memory.
//!
//! - G1: one operation alone is carried out by the caller's own positioned call, whatever the engine: it
//!   costs the same system call, and less around it.
//! - G2: two chains alone are the caller's and one other thread's, whatever the engine: two syncs in flight
//!   cost more by a ring (decision 0013).
//! - G3: what an engine cannot take (no ring to be had, a file without a descriptor, a kernel without a thread
//!   to give) is carried out by positioned calls, so engines differ in speed alone.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::error::{DiskError, Operation};
use crate::helper::Helper;
use crate::uring::Rings;
use crate::vfs::{Batch, Op, run_chain};

/// The environment variable that says whether files are mapped, where options leave it open.
pub const MMAP_VARIABLE: &str = "PINSTONE_MMAP";

/// The environment variable that chooses where options leave it open.
pub const IO_VARIABLE: &str = "PINSTONE_IO";

/// How batches of operations are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoEngine {
    /// By what the environment variable [`IO_VARIABLE`] says (`auto`, `uring`, `positioned`); if it says
    /// nothing, by io_uring for as long as the kernel lets us, else by positioned calls: one line of the log says so.
    /// It is asked when it is first needed, by a batch of three or by who asks for the engine's name.
    #[default]
    Auto,
    /// By io_uring; if the kernel refuses, opening fails. If it refuses later, as for want of a thread, batches
    /// go by positioned calls from then on, and one line of the log says so.
    Uring,
    /// By `pread`, `pwrite` and `fdatasync`, in two threads at most.
    Positioned,
}

/// How a disk reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoOptions {
    /// How batches are carried out.
    pub engine: IoEngine,
    /// Whether sealed files are mapped into memory. Left open, [`MMAP_VARIABLE`] says (`0` or `1`); if it says
    /// nothing, they are.
    pub mmap: Option<bool>,
}

impl IoOptions {
    /// Whether to map.
    ///
    /// # Errors
    /// The environment says something else than `0` or `1`.
    pub(crate) fn maps(self) -> Result<bool, DiskError> {
        if let Some(maps) = self.mmap {
            return Ok(maps);
        }
        match std::env::var_os(MMAP_VARIABLE).unwrap_or_default().to_string_lossy().as_ref() {
            "" | "1" => Ok(true),
            "0" => Ok(false),
            other => {
                let what = format!("expected 0 or 1, found {other:?}");
                let source = io::Error::new(io::ErrorKind::InvalidInput, what);
                Err(DiskError::new(Operation::ChooseEngine, MMAP_VARIABLE, source))
            }
        }
    }
}

impl IoEngine {
    const ALL: [(Self, &str); 3] =
        [(Self::Auto, "auto"), (Self::Uring, "uring"), (Self::Positioned, "positioned")];

    /// What [`IO_VARIABLE`] says, if this leaves it open.
    ///
    /// # Errors
    /// That it says something else than an engine's name.
    fn or_environment(self) -> Result<Self, DiskError> {
        if self != Self::Auto {
            return Ok(self);
        }
        let Some(said) = std::env::var_os(IO_VARIABLE).filter(|said| !said.is_empty()) else {
            return Ok(self);
        };
        said.to_string_lossy().parse().map_err(|what: String| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            DiskError::new(Operation::ChooseEngine, IO_VARIABLE, source)
        })
    }
}

impl fmt::Display for IoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(engine, _)| engine == self);
        f.write_str(named.expect("all have a name").1)
    }
}

impl FromStr for IoEngine {
    type Err = String;

    fn from_str(said: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(_, name)| *name == said);
        let unknown = || format!("expected auto, uring or positioned, found {said:?}");
        named.map(|(engine, _)| *engine).ok_or_else(unknown)
    }
}

type Answer = Result<Vec<Bytes>, DiskError>;

/// What carries out a disk's batches.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Empty until the kernel is asked.
    rings: OnceLock<Option<Rings>>,
    helper: Helper,
}

impl Engine {
    /// The one asked for, or the environment's choice.
    ///
    /// # Errors
    /// The environment asks for none that there is; io_uring was demanded and is refused.
    pub(crate) fn new(asked: IoEngine) -> Result<Self, DiskError> {
        let rings = match asked.or_environment()? {
            IoEngine::Auto => OnceLock::new(),
            IoEngine::Positioned => OnceLock::from(None),
            IoEngine::Uring => {
                let refused = |source| DiskError::new(Operation::ChooseEngine, "io_uring", source);
                OnceLock::from(Some(Rings::probe().map_err(refused)?))
            }
        };
        Ok(Self { rings, helper: Helper::default() })
    }

    fn rings(&self) -> Option<&Rings> {
        let probed = || Rings::probe().inspect_err(say_once).ok();
        self.rings.get_or_init(probed).as_ref()
    }

    /// What `stats` calls it.
    pub(crate) fn name(&self) -> &'static str {
        let by_rings = self.rings().is_some_and(Rings::are_in_use);
        if by_rings { "io_uring" } else { "positioned" }
    }

    /// Carries out all chains: those that only read maps by asking for all at once, and then waiting for
    /// one after the other, beside what the rings or the thread do for the rest.
    pub(crate) fn run(&self, batch: Batch) -> Vec<Answer> {
        if batch.chains.len() < 2 {
            return batch.chains.into_iter().map(run_chain).collect();
        }
        let mut is_mapped = Vec::with_capacity(batch.chains.len());
        let (mut mapped, mut others) = (Vec::new(), Vec::new());
        for chain in batch.chains {
            is_mapped.push(chain.iter().all(ask_map));
            if is_mapped.last() == Some(&true) { mapped.push(chain) } else { others.push(chain) }
        }
        let mut others = match others.len() {
            0 | 1 => others.into_iter().map(run_chain).collect(),
            2 => self.helper.run(Batch { chains: others }),
            _ => {
                let batch = Batch { chains: others };
                let run = match self.rings() {
                    Some(rings) => rings.run(batch),
                    None => Err(batch),
                };
                run.unwrap_or_else(|batch| self.helper.run(batch))
            }
        }
        .into_iter();
        let mut mapped = mapped.into_iter().map(run_chain);
        let answer = |is_mapped| if is_mapped { mapped.next() } else { others.next() };
        is_mapped.into_iter().map(answer).map(|answer| answer.expect("one a chain")).collect()
    }
}

/// Whether it reads a mapped file; if so, the kernel is asked for the bytes.
fn ask_map(op: &Op) -> bool {
    let Op::Read { file, offset_bytes, len_bytes } = op else { return false };
    file.map().is_some_and(|map| {
        map.will_read(*offset_bytes, *len_bytes);
        true
    })
}

fn say_once(error: &io::Error) {
    static SAID: OnceLock<()> = OnceLock::new();
    SAID.get_or_init(|| tracing::info!(%error, "io_uring is refused: positioned I/O is used"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_known_by_its_name() {
        for (engine, name) in IoEngine::ALL {
            assert_eq!(name.parse(), Ok(engine));
            assert_eq!(engine.to_string(), name);
        }
        let refused = "Uring".parse::<IoEngine>().unwrap_err();
        assert_eq!(refused, "expected auto, uring or positioned, found \"Uring\"");
    }
}
