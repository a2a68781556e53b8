//! Image pulls.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use longshore_core::model::{Change, ImageState, ObjectKey, Time};
use longshore_proto::cri::AuthConfig;
use serde_json::json;

use super::{Node, lifecycle};
use crate::effects::images::{Images, Pull};

fn plain(image: &str) -> Pull {
    Pull::of(image, &[])
}

fn password(text: &str) -> Vec<AuthConfig> {
    vec![AuthConfig { password: text.into(), ..AuthConfig::default() }]
}

#[tokio::test]
async fn a53_a_pull_counts_for_the_same_credentials_only() {
    let node = Node::new("a53-pull");
    node.fake.with(|r| {
        r.registry.push("app:1".into());
        r.passwords.insert("app:1".into(), "good".into());
    });
    let images = Images::new(node.shared.cri.clone(), 2);
    let (good, bad) = (password("good"), password("bad"));
    let (ours, theirs) = (Pull::of("app:1", &good), Pull::of("app:1", &bad));
    // A failure without the secret is nothing to who has it, nor a pull under way.
    assert!(images.claim(&theirs, Time(0)));
    assert_eq!(images.state(&ours, Time(0)).await.unwrap(), ImageState::Absent);
    assert!(images.claim(&ours, Time(0)));
    images.pull(&theirs, bad).await.unwrap_err();
    assert!(matches!(images.state(&ours, Time(1)).await.unwrap(), ImageState::Pulling { .. }));
    images.pull(&ours, good).await.unwrap();
    assert!(matches!(images.state(&ours, Time(2)).await.unwrap(), ImageState::Present { .. }));
    // And what the one pulled is no pull of the other; that it is there, both are told.
    assert!(matches!(images.state(&theirs, Time(2)).await.unwrap(), ImageState::Failed { .. }));
    assert!(images.imported("app:1").await.is_some());
    assert!(matches!(
        images.state(&plain("app:1"), Time(2)).await.unwrap(),
        ImageState::Present { .. }
    ));
}

#[tokio::test]
async fn a53_a_pod_without_the_secret_gets_nothing_from_the_pull_of_one_that_has_it() {
    const IMAGE: &str = "reg.example/app:1";
    let node = Node::new("a53-pods");
    node.fake.with(|r| {
        r.registry.push(IMAGE.into());
        r.passwords.insert(IMAGE.into(), "good".into());
    });
    let _daemon = lifecycle::start(&node.shared);
    let containers = json!([{"name": "app", "image": IMAGE, "imagePullPolicy": "Always"}]);
    let config = r#"{"auths": {"reg.example": {"username": "u", "password": "good"}}}"#;
    node.shared.store.edit(|world| {
        let secret = json!({"stringData": {".dockerconfigjson": config}});
        let secret: Secret = serde_json::from_value(secret).unwrap();
        world.secrets.insert(ObjectKey::new("ns", "registry"), Arc::new(secret));
        let mut without = lifecycle::pod("without", json!({"containers": containers}));
        let secrets = json!([{"name": "registry"}]);
        let spec = json!({"containers": containers, "imagePullSecrets": secrets});
        let mut with = lifecycle::pod("with", spec);
        (without.metadata.name, with.metadata.name) = (Some("a".into()), Some("b".into()));
        let keys = [ObjectKey::new("ns", "a"), ObjectKey::new("ns", "b")];
        world.pods.insert(keys[0].clone(), Arc::new(without));
        world.pods.insert(keys[1].clone(), Arc::new(with));
        world.synced = true;
        let mut changes: Vec<Change> = keys.into_iter().map(Change::Pod).collect();
        changes.push(Change::Synced);
        changes
    });
    let failed = |node: &Node| -> Vec<String> {
        let all = node.shared.recorder.all();
        let pulls = all.iter().filter(|e| e.message.starts_with("Failed to pull"));
        pulls.map(|e| e.uid.clone()).collect()
    };
    node.until("ready", |node| lifecycle::is_ready(&node.shared, "with")).await;
    node.until("refused", |node| !failed(node).is_empty()).await;
    assert_eq!(failed(&node), ["without"]);
    assert!(!lifecycle::is_ready(&node.shared, "without"));
    assert_eq!(node.fake.calls("CreateContainer"), 1);
}

#[tokio::test]
async fn a51_one_image_is_pulled_once_however_many_ask() {
    let node = Node::new("a51");
    node.fake.with(|r| r.registry.push("app:1".into()));
    let images = &node.shared.images;
    assert_eq!(images.state(&plain("app:1"), Time(0)).await.unwrap(), ImageState::Absent);
    assert!(images.claim(&plain("app:1"), Time(0)));
    assert!(!images.claim(&plain("app:1"), Time(1)));
    assert!(matches!(
        images.state(&plain("app:1"), Time(1)).await.unwrap(),
        ImageState::Pulling { .. }
    ));
    let mut changed = images.changed();
    images.pull(&plain("app:1"), Vec::new()).await.unwrap();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert!(matches!(
        images.state(&plain("app:1"), Time(2)).await.unwrap(),
        ImageState::Present { .. }
    ));
    assert_eq!(node.fake.calls("PullImage"), 1);
    assert!(images.claim(&plain("app:1"), Time(3)), "policy Always pulls again");
}

#[tokio::test]
async fn a52_a_failed_pull_says_why_until_the_next_try() {
    let node = Node::new("a52");
    let images = &node.shared.images;
    assert!(images.claim(&plain("no:1"), Time(0)));
    images.pull(&plain("no:1"), Vec::new()).await.unwrap_err();
    match images.state(&plain("no:1"), Time(1)).await.unwrap() {
        ImageState::Failed { reason, message, .. } => {
            assert_eq!(reason, "ErrImagePull");
            assert!(message.contains("not found"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    node.fake.with(|r| r.registry.push("no:1".into()));
    assert!(images.claim(&plain("no:1"), Time(2)));
    images.pull(&plain("no:1"), Vec::new()).await.unwrap();
    assert!(matches!(
        images.state(&plain("no:1"), Time(3)).await.unwrap(),
        ImageState::Present { .. }
    ));
}

#[tokio::test]
async fn f18_a_cancelled_pull_can_be_claimed_again() {
    let node = Node::new("f18");
    let images = Images::new(node.shared.cri.clone(), 1);
    assert!(images.claim(&plain("x:1"), Time(0)));
    {
        let x = plain("x:1");
        let mut pull = Box::pin(images.pull(&x, Vec::new()));
        assert!(futures::poll!(&mut pull).is_pending());
    }
    assert!(images.claim(&plain("x:1"), Time(1)));
}
