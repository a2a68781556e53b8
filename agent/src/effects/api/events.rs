//! Events of the recorder, sent to the API server as core/v1 Events (A194, A195).
//!
//! The name of an Event is made from its series, so that a restart and a lost answer find it again.
//! Deliberately absent: limits and counting, which the recorder has.

use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use longshore_core::model::ObjectKey;
use longshore_core::model::hash::uid_of;
use serde_json::json;

use super::{Api, ApiError};
use crate::clock::Retry;
use crate::effects::events::{Event, Feed};

const COMPONENT: &str = "kubelet";
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 10_000;
/// Answers 500 to one event before it is given up.
const FAILURES_MAX: u32 = 4;

/// Whether a pod's container is an init container: its field path is another one.
pub type IsInit = dyn Fn(&ObjectKey, &str) -> bool + Send + Sync;

/// Sends what comes from `feed`, for ever. `host`: this node's name.
pub async fn run(api: Api, mut feed: Feed, host: String, is_init: Box<IsInit>) {
    let mut retry = Retry::new(FIRST_MS, LONGEST_MS);
    let mut failures = 0;
    loop {
        let event = feed.next().await;
        match api.send_event(&to_api(&event, &host, &*is_init)).await {
            Ok(()) => {
                failures = 0;
                retry.reset();
            }
            // Others must not wait for ever for one whose webhook is away.
            Err(error @ ApiError::Failed(_)) if failures == FAILURES_MAX => {
                failures = 0;
                tracing::warn!(%error, object = %event.key, reason = event.reason,
                    "The API server does not take an event; it is given up");
            }
            Err(
                error
                @ (ApiError::Failed(_) | ApiError::Unavailable(_) | ApiError::Unauthorized(_)),
            ) => {
                failures += u32::from(matches!(error, ApiError::Failed(_)));
                tracing::debug!(%error, "an event waits for the API server");
                feed.put_back(event);
                tokio::time::sleep(retry.wait()).await;
            }
            // Its namespace is going away, or it will never be taken: it is in the log.
            Err(error) => {
                tracing::debug!(%error, object = %event.key, reason = event.reason, "an event is not taken");
            }
        }
    }
}

impl Api {
    /// Creates the Event, or brings the count and text of the one that is there up to date.
    ///
    /// # Errors
    /// The API server's.
    async fn send_event(&self, event: &ApiEvent) -> Result<(), ApiError> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let events: kube::Api<ApiEvent> = kube::Api::namespaced(self.client(), namespace);
        let name = event.metadata.name.as_deref().unwrap_or_default();
        if event.count == Some(1) {
            match self.call(events.create(&PostParams::default(), event)).await {
                Err(ApiError::Conflict(_)) => {}
                other => return other.map(drop),
            }
        }
        let patch = json!({"count": event.count, "message": event.message,
            "lastTimestamp": event.last_timestamp});
        let params = PatchParams::default();
        match self.call(events.patch(name, &params, &Patch::Merge(&patch))).await {
            // It was kept for its hour: a new one takes its place.
            Err(ApiError::NotFound(_)) => {
                self.call(events.create(&PostParams::default(), event)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn to_api(event: &Event, host: &str, is_init: &IsInit) -> ApiEvent {
    let kind = format!("{:?}", event.kind);
    let namespace = match event.key.namespace.is_empty() {
        true => "default".to_owned(),
        false => event.key.namespace.to_string(),
    };
    let container = event.container.as_deref().unwrap_or_default();
    let first = event.first.unix_ms().to_string();
    let series = uid_of(&[&kind, &event.uid, &event.reason, container, &first, &event.message]);
    // A combined event changes its text and stays the same one.
    let series = match event.message.starts_with("(combined from similar events)") {
        true => uid_of(&[&kind, &event.uid, &event.reason, container, &first]),
        false => series,
    };
    let field_path = event.container.as_deref().map(|name| match is_init(&event.key, name) {
        true => format!("spec.initContainers{{{name}}}"),
        false => format!("spec.containers{{{name}}}"),
    });
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", event.key.name, &series.replace('-', "")[..16])),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(kind),
            name: Some(event.key.name.to_string()),
            namespace: (!event.key.namespace.is_empty()).then_some(namespace),
            uid: Some(event.uid.clone()),
            field_path,
            ..ObjectReference::default()
        },
        reason: Some(event.reason.clone()),
        message: Some(event.message.clone()),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(host.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(host.into()),
        first_timestamp: Some(event.first.to_api()),
        last_timestamp: Some(event.last.to_api()),
        count: i32::try_from(event.count).ok(),
        ..ApiEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::model::{Kind, Time};

    use super::*;

    fn event(count: u32, last: i64) -> Event {
        Event {
            kind: Kind::Pod,
            key: ObjectKey::new("ns", "web"),
            uid: "u".into(),
            container: Some("a".into()),
            warning: true,
            reason: "BackOff".into(),
            message: "again".into(),
            first: Time(0),
            last: Time(last),
            count,
        }
    }

    #[test]
    fn a194_an_event_is_the_kubelets() {
        let sent = to_api(&event(1, 0), "node-a", &|_, name| name == "i");
        let source = sent.source.clone().unwrap();
        assert_eq!(
            (source.component.as_deref(), source.host.as_deref()),
            (Some("kubelet"), Some("node-a"))
        );
        assert_eq!(sent.type_.as_deref(), Some("Warning"));
        let object = &sent.involved_object;
        assert_eq!(object.field_path.as_deref(), Some("spec.containers{a}"));
        assert_eq!((object.kind.as_deref(), object.uid.as_deref()), (Some("Pod"), Some("u")));
        let init = Event { container: Some("i".into()), ..event(1, 0) };
        let sent = to_api(&init, "node-a", &|_, name| name == "i");
        assert_eq!(sent.involved_object.field_path.as_deref(), Some("spec.initContainers{i}"));
    }

    #[test]
    fn a195_a_series_is_one_object() {
        let name = |event: &Event| to_api(event, "n", &|_, _| false).metadata.name;
        assert_eq!(name(&event(1, 0)), name(&event(9, 5000)));
        let other = Event { message: "else".into(), ..event(1, 0) };
        assert_ne!(name(&event(1, 0)), name(&other));
    }

    #[test]
    fn a194_events_of_a_node_are_in_the_default_namespace() {
        let node = Event { kind: Kind::Node, key: ObjectKey::new("", "n1"), ..event(1, 0) };
        let sent = to_api(&node, "n1", &|_, _| false);
        assert_eq!(sent.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(sent.involved_object.namespace, None);
    }
}
