//! The settings in force.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::config;

/// They hold for new connections; what was agreed with a client stays.
#[derive(Debug)]
pub struct Settings(RwLock<Arc<config::Broker>>);

impl Settings {
    /// These.
    pub fn new(settings: Arc<config::Broker>) -> Settings {
        Settings(RwLock::new(settings))
    }

    /// What holds now.
    pub fn get(&self) -> Arc<config::Broker> {
        self.0.read().clone()
    }

    /// Others from now on.
    pub fn replace(&self, settings: Arc<config::Broker>) {
        *self.0.write() = settings;
    }
}
