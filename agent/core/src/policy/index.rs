//! Which selectors can match a pod, without asking all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::selector::PodSelector;
use crate::model::labels::Labels;

type Bucket = (Option<Arc<str>>, Option<(String, String)>);

/// Selectors by the namespace they are bound to and one label that every match carries.
#[derive(Clone, Debug)]
pub struct SelectorIndex<T> {
    buckets: BTreeMap<Bucket, BTreeSet<T>>,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new() }
    }
}

fn buckets(namespace: Option<&Arc<str>>, selector: &PodSelector) -> Vec<Bucket> {
    match selector.anchor() {
        None => vec![(namespace.cloned(), None)],
        Some((key, values)) => values
            .iter()
            .map(|value| (namespace.cloned(), Some((key.clone(), value.clone()))))
            .collect(),
    }
}

impl<T: Ord + Clone> SelectorIndex<T> {
    pub fn insert(&mut self, namespace: Option<&Arc<str>>, selector: &PodSelector, item: &T) {
        for bucket in buckets(namespace, selector) {
            self.buckets.entry(bucket).or_default().insert(item.clone());
        }
    }

    pub fn remove(&mut self, namespace: Option<&Arc<str>>, selector: &PodSelector, item: &T) {
        for bucket in buckets(namespace, selector) {
            if let Some(items) = self.buckets.get_mut(&bucket) {
                items.remove(item);
                if items.is_empty() {
                    self.buckets.remove(&bucket);
                }
            }
        }
    }

    /// Everything that may match a pod of `namespace` with `labels`, and some that does not.
    pub fn candidates(&self, namespace: &Arc<str>, labels: &Labels) -> BTreeSet<T> {
        let mut found = BTreeSet::new();
        for namespace in [Some(namespace.clone()), None] {
            let mut bucket: Bucket = (namespace, None);
            found.extend(self.buckets.get(&bucket).into_iter().flatten().cloned());
            for (key, value) in labels {
                bucket.1 = Some((key.clone(), value.clone()));
                found.extend(self.buckets.get(&bucket).into_iter().flatten().cloned());
            }
        }
        found
    }
}
