//! The subscription identifiers of one message (MQTT 5.0, section 3.3.2.3.8).

/// Subscription identifiers; up to one is kept without an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionIds {
    first: Option<u32>,
    more: Vec<u32>,
}

impl SubscriptionIds {
    /// The identifiers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    /// Adds one.
    pub fn push(&mut self, id: u32) {
        if self.first.is_none() {
            self.first = Some(id);
        } else {
            self.more.push(id);
        }
    }
}

impl FromIterator<u32> for SubscriptionIds {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> SubscriptionIds {
        let mut ids = ids.into_iter();
        SubscriptionIds { first: ids.next(), more: ids.collect() }
    }
}
