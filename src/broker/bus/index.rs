//! Who is subscribed to what: from a topic to the readers of all filters that match it.
//!
//! A filter without wildcards is found by its text, all others by leaps through their levels: the cost of a look is that
//! of the filters that match, not of those that are there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::filter_readers::FilterReaders;
use crate::broker::levels::{self, Key};
use crate::topic::TopicFilter;

/// The filters that have readers.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Without wildcards.
    exact: HashMap<TopicFilter, Arc<FilterReaders>, RandomState>,
    /// With wildcards.
    wild: BTreeMap<Key, Arc<FilterReaders>>,
}

impl Index {
    /// The readers of `filter`, none if it is new.
    pub(super) fn get_or_insert(&mut self, filter: &TopicFilter) -> &Arc<FilterReaders> {
        let new = || Arc::new(FilterReaders::new(filter.clone()));
        if filter.has_wildcards() {
            self.wild.entry(Key::new(filter.as_str())).or_insert_with(new)
        } else {
            self.exact.entry(filter.clone()).or_insert_with(new)
        }
    }

    /// The readers of this very filter.
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Arc<FilterReaders>> {
        if filter.has_wildcards() { self.wild.get(&Key::new(filter.as_str())) } else { self.exact.get(filter) }
    }

    /// Forgets a filter.
    pub(super) fn remove(&mut self, filter: &TopicFilter) {
        if filter.has_wildcards() {
            self.wild.remove(&Key::new(filter.as_str()));
        } else {
            self.exact.remove(filter);
            if self.exact.len() * 4 < self.exact.capacity() {
                self.exact.shrink_to_fit();
            }
        }
    }

    /// Calls `found` with the readers of each filter that matches `topic`.
    pub(super) fn matching<'a>(&'a self, topic: &str, mut found: impl FnMut(&'a Arc<FilterReaders>)) {
        if let Some(readers) = self.exact.get(topic) {
            found(readers);
        }
        if self.wild.len() <= levels::FEW {
            self.wild.values().filter(|readers| readers.filter().matches(topic)).for_each(found);
        } else {
            levels::filters_matching(&self.wild, topic, found);
        }
    }

    /// The readers of every filter.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<FilterReaders>> {
        self.exact.values().chain(self.wild.values())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filters() -> impl Strategy<Value = TopicFilter> {
        prop_oneof![Just("#".to_owned()), "[ab+$]{1}(/[ab+]){0,3}(/#)?".prop_map(|text| text)]
            .prop_map(|text| TopicFilter::new(text).unwrap())
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_through_all_filters_finds(
            changes in prop::collection::vec((filters(), any::<bool>()), 0..60),
            topic in "[$ab/]{1,7}",
        ) {
            let (mut index, mut naive) = (Index::default(), std::collections::BTreeSet::new());
            for (filter, is_there) in changes {
                if is_there {
                    prop_assert_eq!(index.get_or_insert(&filter).filter(), &filter);
                    naive.insert(filter);
                } else {
                    index.remove(&filter);
                    naive.remove(&filter);
                }
            }
            let mut found = Vec::new();
            index.matching(&topic, |readers| found.push(readers.filter().clone()));
            found.sort_unstable();
            naive.retain(|filter| filter.matches(&topic));
            prop_assert_eq!(found, naive.into_iter().collect::<Vec<_>>());
        }
    }
}
