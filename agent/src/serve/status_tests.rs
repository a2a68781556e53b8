use std::sync::Arc;

use serde_json::json;

use super::super::protocol::FlowQuery;
use super::super::render;
use super::*;

/// A small world that never changes.
pub struct Fixed;

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

const NOW: Time = Time::from_unix_ms(1_700_000_000_000);

impl Views for Fixed {
    fn world(&self) -> Arc<World> {
        let mut world = World { synced: true, revision: 12, ..World::default() };
        let created = NOW.plus_s(-125).to_api();
        for (name, reason) in [("web-1", None), ("web-2", Some("CrashLoopBackOff"))] {
            let key = ObjectKey::new("demo", name);
            let pod = json!({"metadata": {"uid": name, "labels": {"app": "web"}, "creationTimestamp": created},
                "spec": {"containers": [{"name": "c"}]}});
            world.pods.insert(key, object(pod));
            let state = match reason {
                None => json!({"running": {}}),
                Some(reason) => json!({"waiting": {"reason": reason, "message": "back-off 10s"}}),
            };
            let status = json!({"phase": "Running", "podIP": format!("10.85.0.{}", name.len()),
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": reason.is_none(), "restartCount": 3, "state": state}]});
            let live = LocalPod {
                ready: reason.is_none(),
                status: serde_json::from_value(status).unwrap(),
                ..LocalPod::default()
            };
            world.local.insert(PodUid::new(name), Arc::new(live));
        }
        let web = ObjectKey::new("demo", "web");
        let service = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        world.services.insert(web.clone(), object(service));
        let slice = json!({"addressType": "IPv4", "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.85.0.5"], "conditions": {"ready": true}}, {"addresses": ["10.85.0.6"], "conditions": {"ready": false}}]});
        world.endpoint_slices.insert(ObjectKey::new("demo", "web-abc"), object(slice));
        let policy = json!({"spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"]}});
        world.policies.insert(web, object(policy));
        Arc::new(world)
    }

    fn now(&self) -> Time {
        NOW
    }

    fn node(&self) -> NodeFacts {
        NodeFacts {
            name: "node-a".to_owned(),
            ips: vec!["192.0.2.1".to_owned()],
            role: "standalone".to_owned(),
            version: "0.1.0".to_owned(),
            runtime: "containerd 2.1.9".to_owned(),
            started_at: NOW.plus_s(-3600),
            flows: Some(3),
            degraded: Vec::new(),
        }
    }

    fn problems(&self) -> Vec<longshore_core::standalone::Located> {
        longshore_core::standalone::parse("web.yaml", "kind: [").problems
    }

    fn events(&self, _: usize) -> Vec<EventRow> {
        vec![EventRow {
            at_unix_ms: NOW.plus_s(-7).unix_ms(),
            warning: true,
            reason: "BackOff".to_owned(),
            object: "Pod demo/web-2".to_owned(),
            message: "Back-off restarting failed container c".to_owned(),
            count: 3,
        }]
    }

    fn why_pod(&self, uid: &PodUid) -> Vec<String> {
        vec![format!("{uid}: waits")]
    }

    fn service_text(&self, key: &ObjectKey) -> Vec<String> {
        vec![format!("frontend of {key}")]
    }

    fn flow(&self, query: &FlowQuery) -> Result<Vec<String>, String> {
        if query.from == "demo/none" {
            Err("there is no pod demo/none".to_owned())
        } else {
            Ok(vec!["allowed".to_owned()])
        }
    }

    fn maps_wanted(&self) -> String {
        "a\nb\n".to_owned()
    }

    fn maps_kernel(&self) -> Result<String, String> {
        Ok("a\nc\n".to_owned())
    }
}

#[test]
fn status_text_is_golden() {
    let status = Status::of(&Fixed);
    let want = "\
Node node-a (standalone, 192.0.2.1): longshore 0.1.0, containerd 2.1.9, up 60m, flows tracked: 3, DEGRADED

NAMESPACE  POD    READY  STATUS            RESTARTS  AGE   IP
demo       web-1  1/1    Running           3         2m5s  10.85.0.5
demo       web-2  0/1    CrashLoopBackOff  3         2m5s  10.85.0.5
                         back-off 10s

NAMESPACE  SERVICE  TYPE       CLUSTER-IP  PORTS          ENDPOINTS
demo       web      ClusterIP  10.96.0.10  80/TCP,53/UDP  1/2

NAMESPACE  POLICY  DIRECTIONS      PODS
demo       web     Ingress,Egress  2

PROBLEMS
  web.yaml:1: not YAML";
    let text = render::status(&status, false);
    assert!(text.starts_with(want), "{text}");
    assert!(text.ends_with("LAST EVENTS\n  7s ago  Warning BackOff Pod demo/web-2: Back-off restarting failed container c (x3)\n"), "{text}");
    let wide = render::status(&status, true);
    assert!(wide.contains("10.85.0.5,10.85.0.6") && wide.contains("UID"), "{wide}");
}

#[test]
fn status_of_an_empty_node_says_so() {
    let status = Status::of_world(&World { synced: true, ..World::default() }, Fixed.node(), NOW);
    assert!(status.healthy);
    let text = render::status(&status, false);
    assert!(text.contains("No pods. No Services. No NetworkPolicies."), "{text}");
}

#[test]
fn status_json_round_trips() {
    let status = Status::of(&Fixed);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    assert!(!status.healthy);
}
