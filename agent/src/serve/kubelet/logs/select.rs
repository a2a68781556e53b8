//! Which container's log a name means (A183): by the pod's status, as the kubelet chooses.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

/// The bare id of the container.
///
/// # Errors
/// Why there is no log yet, in the kubelet's words.
pub fn container_id(
    pod: &str,
    status: &PodStatus,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let found = lists.into_iter().flatten().flatten().find(|one| one.name == container);
    let about = format!("container {container:?} in pod {pod:?}");
    let Some(found) = found else { return Err(format!("{about} is not available")) };
    let id = id_of(found, previous).map_err(|why| match why {
        Why::NoPrevious => format!("previous terminated {about} not found"),
        Why::Terminated => format!("{about} is terminated"),
        Why::Waiting(reason) => format!("{about} is waiting to start{reason}"),
    })?;
    // `containerd://<id>`.
    Ok(id.rsplit_once("://").map_or(id, |(_, bare)| bare).to_owned())
}

enum Why {
    NoPrevious,
    Terminated,
    Waiting(String),
}

fn id_of(status: &ContainerStatus, previous: bool) -> Result<&str, Why> {
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(ended_id);
    if previous {
        return last_id.ok_or(Why::NoPrevious);
    }
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return status.container_id.as_deref().ok_or(Why::Terminated);
    }
    if let Some(now) = state.and_then(|state| state.terminated.as_ref()) {
        // The next instance may have failed before it had an id.
        return ended_id(now).or(last_id).ok_or(Why::Terminated);
    }
    if last.is_some() {
        return last_id.ok_or(Why::Terminated);
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    Err(Why::Waiting(match waiting.map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
        Some("ErrImagePull") => ": image can't be pulled".to_owned(),
        Some("ImagePullBackOff") => ": trying and failing to pull image".to_owned(),
        Some(reason) => format!(": {reason}"),
        None => " - no logs yet".to_owned(),
    }))
}

fn ended_id(ended: &ContainerStateTerminated) -> Option<&str> {
    ended.container_id.as_deref().filter(|id| !id.is_empty())
}

/// The container with this id still runs: its log can grow.
pub fn is_running(status: &PodStatus, id: &str) -> bool {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten().any(|one| {
        let own = one.container_id.as_deref().unwrap_or_default();
        own.rsplit_once("://").map_or(own, |(_, bare)| bare) == id
            && one.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(state: Value, last: Value, id: &str) -> PodStatus {
        serde_json::from_value(json!({"containerStatuses": [{"name": "app", "image": "", "imageID": "",
            "ready": false, "restartCount": 1, "containerID": id, "state": state, "lastState": last}]}))
        .unwrap()
    }

    fn check(state: Value, last: Value, previous: bool, want: Result<&str, &str>) {
        let got = container_id("web", &status(state, last, "containerd://now"), "app", previous);
        assert_eq!(got.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn a183_the_log_is_the_running_containers_else_that_of_the_last_end() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
        let (running, none) = (json!({"running": {}}), json!({}));
        check(running.clone(), none.clone(), false, Ok("now"));
        check(running.clone(), ended("containerd://old"), false, Ok("now"));
        check(running.clone(), ended("containerd://old"), true, Ok("old"));
        check(ended("containerd://end"), ended("containerd://old"), false, Ok("end"));
        check(ended(""), ended("containerd://old"), false, Ok("old"));
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        check(waits("CrashLoopBackOff"), ended("containerd://old"), false, Ok("old"));
        let no = |text| Err(text);
        check(
            running,
            none.clone(),
            true,
            no(r#"previous terminated container "app" in pod "web" not found"#),
        );
        check(ended(""), none.clone(), false, no(r#"container "app" in pod "web" is terminated"#));
        check(
            waits("ContainerCreating"),
            none.clone(),
            false,
            no(r#"container "app" in pod "web" is waiting to start: ContainerCreating"#),
        );
        check(
            waits("ErrImagePull"),
            none.clone(),
            false,
            no(r#"container "app" in pod "web" is waiting to start: image can't be pulled"#),
        );
        check(
            waits("ImagePullBackOff"),
            none.clone(),
            false,
            no(
                r#"container "app" in pod "web" is waiting to start: trying and failing to pull image"#,
            ),
        );
        check(
            none.clone(),
            none,
            false,
            no(r#"container "app" in pod "web" is waiting to start - no logs yet"#),
        );
        let other = container_id("web", &PodStatus::default(), "app", false);
        assert_eq!(other.unwrap_err(), r#"container "app" in pod "web" is not available"#);
    }

    #[test]
    fn a183_following_ends_with_the_container() {
        let running = status(json!({"running": {}}), json!({}), "containerd://now");
        assert!(is_running(&running, "now") && !is_running(&running, "old"));
        let ended = status(json!({"terminated": {"exitCode": 0}}), json!({}), "containerd://now");
        assert!(!is_running(&ended, "now"));
    }
}
