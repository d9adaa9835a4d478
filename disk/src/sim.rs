//! The simulated disk: in memory, seeded. (Being written; the interface stands.)
#![allow(missing_docs, unused, clippy::all)]
use std::io; use std::sync::Arc;
use crate::error::{DiskError, Operation};
use crate::file_name::FileName;
use crate::vfs::*;
#[derive(Debug)] pub struct SimDisk {}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimCounters { pub eio: u64 }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault { Eio, Enospc, Emfile, ShortWrite, ShortRead, Interrupted, SyncFailsThenClean, SyncEnospc }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashState { Nothing, Everything, OneMissing(usize), OneAlone(usize), Random(u64) }
#[derive(Clone, Debug, Default)]
pub struct Filter {}
impl Filter { pub fn any() -> Self { panic!() } pub fn operation(self, o: Operation) -> Self { panic!() } pub fn file(self, n: FileName) -> Self { panic!() } pub fn nth(self, n: u64) -> Self { panic!() } }
pub fn is_crash(error: &io::Error) -> bool { false }
impl SimDisk {
  pub fn new(seed: u64) -> Arc<SimDisk> { panic!() }
  pub fn op_count(&self) -> u64 { panic!() }
  pub fn mutation_count(&self) -> u64 { panic!() }
  pub fn crash_at(&self, op: u64) { panic!() }
  pub fn crashed(&self) -> bool { panic!() }
  pub fn crash_now(&self) { panic!() }
  pub fn fail_at(&self, op: u64, fault: Fault) { panic!() }
  pub fn fail_from(&self, op: u64, fault: Fault) { panic!() }
  pub fn fail_when(&self, filter: Filter, fault: Fault) { panic!() }
  pub fn heal(&self) { panic!() }
  pub fn set_capacity(&self, bytes: Option<u64>) { panic!() }
  pub fn after_crash(&self, state: CrashState) -> Arc<SimDisk> { panic!() }
  pub fn unsynced(&self) -> usize { panic!() }
  pub fn clean_reopen(&self) -> Arc<SimDisk> { panic!() }
  pub fn drop_caches(&self) { panic!() }
  pub fn corrupt(&self, name: &str, offset: u64, f: impl FnOnce(&mut [u8])) { panic!() }
  pub fn file_bytes(&self, name: &str) -> Option<Vec<u8>> { panic!() }
  pub fn put_file(&self, name: &str, bytes: impl AsRef<[u8]>) { panic!() }
  pub fn remove_file(&self, name: &str) { panic!() }
  pub fn names(&self) -> Vec<String> { panic!() }
  pub fn counters(&self) -> SimCounters { panic!() }
  pub fn trace(&self) -> Vec<String> { panic!() }
}
impl Disk for SimDisk {
    fn describe(&self) -> String { panic!() }
    fn engine(&self) -> &'static str { panic!() }
    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> { panic!() }
    fn list(&self) -> Result<Vec<String>, DiskError> { panic!() }
    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError> { panic!() }
    fn remove(&self, name: FileName) -> Result<(), DiskError> { panic!() }
    fn sync_dir(&self) -> Result<(), DiskError> { panic!() }
    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError> { panic!() }
    fn random(&self) -> Result<[u8; 16], DiskError> { panic!() }
}
