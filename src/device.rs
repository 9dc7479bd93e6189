//! One device: open, session, backoff.

pub mod queue;
pub mod rules;
