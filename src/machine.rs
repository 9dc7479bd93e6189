//! The machine that gatepost runs on: its users and groups, and which process has a device file open.

pub mod accounts;
pub mod holders;
