//! How long a session outlives its connection (MQTT 5.0, section 3.1.2.11.2).

use std::time::Duration;

/// In seconds: the session never ends.
pub const NEVER: u32 = u32::MAX;

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionExpiry {
    /// It ends with the connection if zero.
    After(Duration),
    /// It is kept for ever.
    Never,
}

impl SessionExpiry {
    /// What a client that asks for `seconds` gets.
    pub fn grant(seconds: u32, limit: Duration) -> SessionExpiry {
        let asked = Duration::from_secs(seconds.into());
        match seconds {
            NEVER if limit >= asked => SessionExpiry::Never,
            _ => SessionExpiry::After(asked.min(limit)),
        }
    }

    /// Whether the session ends with the connection.
    pub fn is_zero(self) -> bool {
        self == SessionExpiry::After(Duration::ZERO)
    }

    /// As MQTT 5 says it.
    pub fn seconds(self) -> u32 {
        match self {
            SessionExpiry::Never => NEVER,
            SessionExpiry::After(interval) => interval.as_secs().try_into().unwrap_or(NEVER),
        }
    }
}
