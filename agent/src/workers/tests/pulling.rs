//! Image pulls.

use longshore_core::model::{ImageState, Time};

use super::Node;
use crate::effects::images::Images;

#[tokio::test]
async fn a51_one_image_is_pulled_once_however_many_ask() {
    let node = Node::new("a51");
    node.fake.with(|r| r.registry.push("app:1".into()));
    let images = &node.shared.images;
    assert_eq!(images.state("app:1", Time(0)).await.unwrap(), ImageState::Absent);
    assert!(images.claim("app:1", Time(0)));
    assert!(!images.claim("app:1", Time(1)));
    assert!(matches!(images.state("app:1", Time(1)).await.unwrap(), ImageState::Pulling { .. }));
    let mut changed = images.changed();
    images.pull("app:1", Vec::new()).await.unwrap();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert!(matches!(images.state("app:1", Time(2)).await.unwrap(), ImageState::Present { .. }));
    assert_eq!(node.fake.calls("PullImage"), 1);
    assert!(images.claim("app:1", Time(3)), "policy Always pulls again");
}

#[tokio::test]
async fn a52_a_failed_pull_says_why_until_the_next_try() {
    let node = Node::new("a52");
    let images = &node.shared.images;
    assert!(images.claim("no:1", Time(0)));
    images.pull("no:1", Vec::new()).await.unwrap_err();
    match images.state("no:1", Time(1)).await.unwrap() {
        ImageState::Failed { reason, message, .. } => {
            assert_eq!(reason, "ErrImagePull");
            assert!(message.contains("not found"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    node.fake.with(|r| r.registry.push("no:1".into()));
    assert!(images.claim("no:1", Time(2)));
    images.pull("no:1", Vec::new()).await.unwrap();
    assert!(matches!(images.state("no:1", Time(3)).await.unwrap(), ImageState::Present { .. }));
}

#[tokio::test]
async fn f18_a_cancelled_pull_can_be_claimed_again() {
    let node = Node::new("f18");
    let images = Images::new(node.shared.cri.clone(), 1);
    assert!(images.claim("x:1", Time(0)));
    {
        let mut pull = Box::pin(images.pull("x:1", Vec::new()));
        assert!(futures::poll!(&mut pull).is_pending());
    }
    assert!(images.claim("x:1", Time(1)));
}
