//! A path and a method to what is asked and what it needs (A180, A182).
//!
//! Paths are taken as they are sent: nothing is decoded, cleaned or redirected, so no other
//! spelling of a path is a way around a check.

use hyper::Method;
use longshore_core::model::{ObjectKey, PodUid};

/// A pod that is named in a path; the UID is optional there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodPath {
    pub key: ObjectKey,
    pub uid: Option<PodUid>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    Healthz,
    /// One check of it.
    HealthzOf(String),
    Pods,
    RunningPods,
    Configz,
    Metrics,
    /// namespace, pod, container; an empty one is refused with the kubelet's words.
    ContainerLogs(String, String, String),
    Exec(PodPath, String),
    Attach(PodPath, String),
    Run(PodPath, String),
    PortForward(PodPath),
    /// The kubelet has it, this node not yet.
    NotYet,
    Unknown,
}

/// What a caller must be allowed on `nodes/<subresource>`; one of them is enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    pub verb: &'static str,
    pub subresources: &'static [&'static str],
}

fn segments(path: &str) -> Vec<&str> {
    path.strip_prefix('/').unwrap_or_default().split('/').collect()
}

pub fn parse(path: &str) -> Route {
    let all = segments(path);
    let pod = |namespace: &str, name: &str, uid: Option<&str>| PodPath {
        key: ObjectKey::new(namespace, name),
        uid: uid.map(PodUid::new),
    };
    let container = |make: fn(PodPath, String) -> Route| match all[1..] {
        [namespace, name, container] => make(pod(namespace, name, None), container.to_owned()),
        [namespace, name, uid, container] => {
            make(pod(namespace, name, Some(uid)), container.to_owned())
        }
        _ => Route::Unknown,
    };
    match (all[0], &all[1..]) {
        ("healthz", [] | [""]) => Route::Healthz,
        ("healthz", [check]) => Route::HealthzOf((*check).to_owned()),
        ("pods", [] | [""]) => Route::Pods,
        ("runningpods", [] | [""]) => Route::RunningPods,
        ("configz", []) => Route::Configz,
        ("metrics", []) => Route::Metrics,
        ("containerLogs", [namespace, name, container]) => Route::ContainerLogs(
            (*namespace).to_owned(),
            (*name).to_owned(),
            (*container).to_owned(),
        ),
        ("exec", _) => container(Route::Exec),
        ("attach", _) => container(Route::Attach),
        ("run", _) => container(Route::Run),
        ("portForward", [namespace, name]) => Route::PortForward(pod(namespace, name, None)),
        ("portForward", [namespace, name, uid]) => {
            Route::PortForward(pod(namespace, name, Some(uid)))
        }
        ("stats" | "metrics" | "logs" | "checkpoint" | "statusz" | "flagz" | "debug", _) => {
            Route::NotYet
        }
        _ => Route::Unknown,
    }
}

/// The verb is the method's, but for what runs something in a pod: a WebSocket opens with GET, and
/// reading is not running (E25), so those always need `create`.
pub fn needs(method: &Method, path: &str) -> Needs {
    let first = segments(path)[0];
    let runs = matches!(first, "exec" | "attach" | "run" | "portForward");
    let verb = match *method {
        _ if runs => "create",
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let subresources: &[&str] = match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["flagz"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    };
    Needs { verb, subresources }
}

/// For metrics: one of few names, never a caller's text.
pub fn bucket(path: &str) -> &'static str {
    const NAMES: [&str; 10] = [
        "healthz",
        "pods",
        "runningpods",
        "configz",
        "metrics",
        "containerLogs",
        "exec",
        "attach",
        "run",
        "portForward",
    ];
    let first = segments(path)[0];
    NAMES.into_iter().find(|name| *name == first).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a180_each_path_needs_its_subresource_and_the_fine_ones_fall_back_to_proxy() {
        for (path, want) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/syslog", &["log"]),
            ("/checkpoint/a/b/c", &["checkpoint"]),
            ("/pods", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/syncloop", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/containerLogs/a/b/c", &["proxy"]),
            ("/podsx", &["proxy"]),
            ("//pods", &["proxy"]),
            ("/", &["proxy"]),
            ("", &["proxy"]),
        ] {
            let needs = needs(&Method::GET, path);
            assert_eq!(needs.subresources, want, "{path}");
            assert_eq!(needs.verb, "get");
        }
        assert_eq!(needs(&Method::POST, "/pods").verb, "create");
        assert_eq!(needs(&Method::DELETE, "/pods").verb, "delete");
        assert_eq!(needs(&Method::HEAD, "/pods").verb, "get");
        assert_eq!(needs(&Method::OPTIONS, "/pods").verb, "");
    }

    #[test]
    fn a180_a182_running_something_needs_create_whatever_the_method() {
        for method in [Method::GET, Method::POST, Method::HEAD, Method::PUT] {
            for path in ["/exec/a/b/c", "/attach/a/b/c", "/run/a/b/c", "/portForward/a/b"] {
                assert_eq!(needs(&method, path).verb, "create", "{method} {path}");
            }
        }
    }

    #[test]
    fn a182_paths_have_a_form_with_and_one_without_a_uid() {
        let pod = |uid: Option<&str>| PodPath {
            key: ObjectKey::new("ns", "web"),
            uid: uid.map(PodUid::new),
        };
        assert_eq!(parse("/exec/ns/web/c"), Route::Exec(pod(None), "c".into()));
        assert_eq!(parse("/exec/ns/web/u-1/c"), Route::Exec(pod(Some("u-1")), "c".into()));
        assert_eq!(parse("/attach/ns/web/c"), Route::Attach(pod(None), "c".into()));
        assert_eq!(parse("/run/ns/web/u/c"), Route::Run(pod(Some("u")), "c".into()));
        assert_eq!(parse("/portForward/ns/web"), Route::PortForward(pod(None)));
        assert_eq!(parse("/portForward/ns/web/u"), Route::PortForward(pod(Some("u"))));
        for path in
            ["/exec", "/exec/a", "/exec/a/b", "/exec/a/b/c/d/e", "/portForward/a", "//exec/a/b/c"]
        {
            assert_eq!(parse(path), Route::Unknown, "{path}");
        }
        assert_eq!(parse("/%65xec/a/b/c"), Route::Unknown);
        assert_eq!(parse("/runningpods/"), Route::RunningPods);
        assert_eq!(parse("/healthz/ping"), Route::HealthzOf("ping".into()));
        assert_eq!(parse("/healthz/ping/"), Route::Unknown);
        assert_eq!(parse("/stats/summary"), Route::NotYet);
        assert_eq!(parse("/metrics/cadvisor"), Route::NotYet);
    }
}
