//! Images come from a registry, or do not.

use longshore_tests::lab::{PULLED_IMAGE, WORKLOAD_IMAGE};
use longshore_tests::process::wait_for;
use longshore_tests::registry::Registry;

use crate::script::*;

fn pod_of(name: &str, image: &str) -> String {
    pod(name, "sleep").replace(WORKLOAD_IMAGE, image)
}

#[test]
fn a50_a52_an_image_that_is_absent_is_pulled_and_one_that_is_nowhere_says_so() {
    let node = node("pull");
    let registry = Registry::start(&node).unwrap();
    assert!(!node.ctr().images().unwrap().iter().any(|image| image == PULLED_IMAGE));
    node.write("pulled.yaml", &pod_of("pulled", PULLED_IMAGE)).unwrap();
    wait_running(&node, "pulled", 1);
    wait_said(&node, &format!("Pulling image \"{PULLED_IMAGE}\""));
    wait_said(&node, &format!("Successfully pulled image \"{PULLED_IMAGE}\""));
    let requests = registry.requests();
    let layers = requests.lines().filter(|line| line.contains("/blobs/") && line.ends_with(" 200"));
    assert_eq!(layers.count(), 2, "the configuration and the layer, once each: {requests}");

    // IfNotPresent: the second pod asks nobody.
    node.write("second.yaml", &pod_of("second", PULLED_IMAGE)).unwrap();
    wait_running(&node, "second", 1);
    wait_said(&node, &format!("Container image \"{PULLED_IMAGE}\" already present on machine"));
    assert_eq!(registry.requests(), requests);

    // Always: the registry is asked, and has nothing new to give.
    let always = pod_of("third", PULLED_IMAGE) + "      imagePullPolicy: Always\n";
    node.write("third.yaml", &always).unwrap();
    wait_running(&node, "third", 1);
    let requests = registry.requests().split_off(requests.len());
    assert!(requests.contains("/manifests/"), "{requests}");
    assert!(!requests.contains("/blobs/"), "{requests}");

    let missing = Registry::missing_image();
    node.write("missing.yaml", &pod_of("missing", &missing)).unwrap();
    for what in ["ErrImagePull", "ImagePullBackOff"] {
        wait_for(&format!("{what} with its reason"), 40, || {
            let output = node.longshore("explain pod e2e/missing").output()?;
            Ok(output.text.contains(what)
                && output.text.contains(&missing)
                && output.text.contains("not found"))
        })
        .unwrap();
    }
    assert!(registry.requests().lines().any(|line| line.ends_with("/manifests/missing 404")));
    assert_eq!(running(&node, "missing").len(), 0);
}
