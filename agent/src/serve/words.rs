//! The words people know from `kubectl get`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// The STATUS column of a pod.
pub fn pod_word(pod: &Pod, status: &PodStatus) -> String {
    let init = init_word(pod, status);
    let mut word =
        status.reason.clone().or(status.phase.clone()).unwrap_or_else(|| "Pending".to_owned());
    if let Some(init) = &init {
        word.clone_from(init);
    } else {
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            match container_word(container) {
                Some(other) => word = other,
                None => running |= container.ready,
            }
        }
        // One container has finished and another one still works.
        if word == "Completed" && running {
            word = "Running".to_owned();
        }
    }
    if pod.metadata.deletion_timestamp.is_some() { "Terminating".to_owned() } else { word }
}

/// `None` while the init containers are no news.
fn init_word(pod: &Pod, status: &PodStatus) -> Option<String> {
    let containers =
        pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    for (index, container) in containers.iter().enumerate() {
        let seen = status
            .init_container_statuses
            .iter()
            .flatten()
            .find(|seen| seen.name == container.name);
        let Some(seen) = seen else { continue };
        let state = seen.state.as_ref();
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let terminated = state.and_then(|state| state.terminated.as_ref());
        if terminated.is_some_and(|ended| ended.exit_code == 0)
            || (sidecar && seen.started == Some(true))
        {
            continue;
        }
        let waiting = state
            .and_then(|state| state.waiting.as_ref())
            .and_then(|waiting| waiting.reason.clone());
        return Some(match (terminated, waiting) {
            (Some(ended), _) => format!(
                "Init:{}",
                ended_word(ended.reason.as_deref(), ended.exit_code, ended.signal)
            ),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{}", containers.len()),
        });
    }
    None
}

/// `None`: it runs.
fn container_word(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        return waiting.reason.clone().filter(|reason| !reason.is_empty());
    }
    let ended = state.terminated.as_ref()?;
    Some(ended_word(ended.reason.as_deref(), ended.exit_code, ended.signal))
}

fn ended_word(reason: Option<&str>, exit_code: i32, signal: Option<i32>) -> String {
    match (reason.filter(|reason| !reason.is_empty()), signal.filter(|signal| *signal != 0)) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(signal)) => format!("Signal:{signal}"),
        (None, None) => format!("ExitCode:{exit_code}"),
    }
}

/// `5s`, `2m3s`, `17m`, `3h5m`, `2d`: short, and exact where it matters.
pub fn age(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let with = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => with(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => with(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => with(d, "d", h % 24, "h"),
        _ => format!("{d}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(pod: Value, status: Value, word: &str) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let status: PodStatus = serde_json::from_value(status).unwrap();
        assert_eq!(pod_word(&pod, &status), word);
    }

    #[test]
    fn status_words_are_kubectls() {
        let container = |state: Value, ready: bool| json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state}]});
        check(json!({}), json!({}), "Pending");
        check(json!({}), json!({"phase": "Failed", "reason": "Evicted"}), "Evicted");
        check(json!({}), container(json!({"running": {}}), true), "Running");
        check(
            json!({}),
            container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), false),
            "CrashLoopBackOff",
        );
        check(
            json!({}),
            container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false),
            "Completed",
        );
        check(json!({}), container(json!({"terminated": {"exitCode": 7}}), false), "ExitCode:7");
        check(
            json!({}),
            container(json!({"terminated": {"exitCode": 0, "signal": 9}}), false),
            "Signal:9",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            container(json!({"running": {}}), true),
            "Terminating",
        );
        let two =
            json!({"spec": {"containers": [], "initContainers": [{"name": "i"}, {"name": "j"}]}});
        let init = |state: Value| {
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
        };
        check(two.clone(), init(json!({"running": {}})), "Init:1/2");
        check(
            two.clone(),
            init(json!({"waiting": {"reason": "ImagePullBackOff"}})),
            "Init:ImagePullBackOff",
        );
        check(two, init(json!({"terminated": {"exitCode": 1, "reason": "Error"}})), "Init:Error");
    }

    #[test]
    fn status_ages_are_short() {
        for (s, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (123, "2m3s"),
            (601, "10m"),
            (11_100, "3h5m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
            (900_000, "10d"),
        ] {
            assert_eq!(age(s * 1000), text, "{s}");
        }
    }
}
