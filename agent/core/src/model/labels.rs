//! Label selectors over plain maps (kube-core matches them; this gives it our types).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::{Selector, SelectorExt as _};

pub type Labels = BTreeMap<String, String>;

/// Parses `selector`. `Err` names what is wrong (an operator that does not exist, a list that is
/// empty where it may not be).
pub fn parse(selector: &LabelSelector) -> Result<Selector, String> {
    Selector::try_from(selector.clone()).map_err(|error| error.to_string())
}

/// True when every requirement holds. An empty selector matches everything.
pub fn matches(selector: &Selector, labels: &Labels) -> bool {
    selector.matches(labels)
}

/// `labels` of a metadata, or the empty map.
pub fn of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &Labels {
    static EMPTY: Labels = Labels::new();
    metadata.labels.as_ref().unwrap_or(&EMPTY)
}
