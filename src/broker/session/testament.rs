//! The will of the client that is connected.

use super::{Attach, Session};
use crate::broker::store::StoredWill;

impl Session {
    /// Notes the will of `connection`. Any that is left of the client has been published, or is not going to be.
    pub(super) fn keep_will(&mut self, connection: &Attach) {
        self.context.wills.take_back(&self.client_id);
        self.kept_will = connection.connect.will.as_ref().and_then(|request| {
            self.context.wills.keep(StoredWill {
                client_id: self.client_id.clone(),
                username: self.username(),
                request: request.clone(),
                expiry: connection.terms.session_expiry,
                silence: connection.terms.silence,
                ended_at: None,
            })
        });
    }
}
