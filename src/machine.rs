//! The machine that gatepost runs on: its users and groups, which process has a device file open, the heap.

pub mod accounts;
pub mod heap;
pub mod holders;
