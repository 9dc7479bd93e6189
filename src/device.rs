//! One device: open, session, backoff.
