use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};

use super::*;

fn spec(kind: ProbeKind) -> Spec {
    Spec::of(kind, &Probe { period_seconds: Some(5), ..Probe::default() })
}

fn fail() -> Outcome {
    Outcome::Failure("no".into())
}

/// Runs `results` and returns the verdicts and whether the probe goes on.
fn check(spec: &Spec, results: &[Outcome]) -> (Vec<bool>, bool) {
    let mut state = State::new(Time(0));
    let mut verdicts = Vec::new();
    let mut goes_on = true;
    for (i, result) in results.iter().enumerate() {
        let now = Time(i as i64 * spec.period_ms);
        let (next, verdict, due) = step(spec, &state, Some(result), now);
        verdicts.extend(verdict);
        goes_on = due.is_some();
        state = next;
    }
    (verdicts, goes_on)
}

#[test]
fn a90_defaults_and_minimums() {
    let spec = Spec::of(ProbeKind::Readiness, &Probe::default());
    assert_eq!((spec.initial_delay_ms, spec.period_ms, spec.timeout_ms), (0, 10_000, 1_000));
    assert_eq!((spec.success_threshold, spec.failure_threshold), (1, 3));
    let hostile = Probe {
        period_seconds: Some(-1),
        timeout_seconds: Some(0),
        failure_threshold: Some(i32::MIN),
        success_threshold: Some(5),
        initial_delay_seconds: Some(i32::MAX),
        ..Probe::default()
    };
    let spec = Spec::of(ProbeKind::Liveness, &hostile);
    assert_eq!((spec.period_ms, spec.timeout_ms), (10_000, 1_000));
    assert_eq!((spec.success_threshold, spec.failure_threshold), (1, 3));
}

#[test]
fn a90_thresholds_count_consecutive_results() {
    use Outcome::Success;
    let readiness = spec(ProbeKind::Readiness);
    assert_eq!(check(&readiness, &[Success, fail(), fail(), Success]), (vec![true], true));
    assert_eq!(
        check(&readiness, &[Success, fail(), fail(), fail(), fail(), Success]),
        (vec![true, false, true], true)
    );
    let twice = Spec { success_threshold: 2, ..readiness };
    assert_eq!(check(&twice, &[Success, fail(), Success, Success]), (vec![true], true));
}

#[test]
fn a92_startup_stops_after_its_verdict() {
    let startup = spec(ProbeKind::Startup);
    assert_eq!(check(&startup, &[fail(), Outcome::Success]), (vec![true], false));
    assert_eq!(check(&startup, &[fail(), fail(), fail()]), (vec![false], false));
}

#[test]
fn a94_liveness_is_on_hold_after_it_failed() {
    let liveness = spec(ProbeKind::Liveness);
    assert_eq!(check(&liveness, &[fail(), fail()]), (vec![], true));
    assert_eq!(check(&liveness, &[fail(), fail(), fail()]), (vec![false], false));
}

#[test]
fn a93_the_first_run_waits_for_the_initial_delay_from_the_start() {
    let spec = Spec { initial_delay_ms: 3_000, ..spec(ProbeKind::Readiness) };
    let state = State::new(Time(1_000));
    assert_eq!(step(&spec, &state, None, Time(1_500)).2, Some(Time(4_000)));
    assert_eq!(step(&spec, &state, None, Time(9_000)).2, Some(Time(9_000)));
}

fn target(get: HTTPGetAction) -> ProbeTarget {
    ProbeTarget {
        container: "web".into(),
        container_id: "c1".into(),
        kind: ProbeKind::Readiness,
        started_at: Time(0),
        probe: Probe { http_get: Some(get), ..Probe::default() },
        host: "10.0.0.5".into(),
        ports: BTreeMap::from([("http".into(), 8080)]),
    }
}

#[test]
fn a85_requests_have_the_default_host_port_names_and_headers() {
    let get = HTTPGetAction {
        path: Some("healthz?full=1".into()),
        port: IntOrString::String("http".into()),
        ..HTTPGetAction::default()
    };
    let request = http_request(&target(get.clone()), "1.37").unwrap();
    assert_eq!((request.host.as_str(), request.port), ("10.0.0.5", 8080));
    assert_eq!(request.path, "/healthz?full=1");
    let headers: Vec<_> = request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        headers,
        [("Host", "10.0.0.5:8080"), ("User-Agent", "kube-probe/1.37"), ("Accept", "*/*")]
    );

    let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
    let given = HTTPGetAction {
        http_headers: Some(vec![
            header("host", "example.org"),
            header("user-agent", "me"),
            header("Accept", ""),
        ]),
        ..get.clone()
    };
    let request = http_request(&target(given), "1.37").unwrap();
    assert_eq!(
        request.headers,
        [("host".to_owned(), "example.org".to_owned()), ("user-agent".into(), "me".into())]
    );

    for bad in [
        HTTPGetAction { port: IntOrString::Int(0), ..get.clone() },
        HTTPGetAction { port: IntOrString::Int(70_000), ..get.clone() },
        HTTPGetAction { port: IntOrString::String("none".into()), ..get.clone() },
        HTTPGetAction { scheme: Some("FTP".into()), ..get.clone() },
        HTTPGetAction { path: Some("/a\r\nX: y".into()), ..get.clone() },
        HTTPGetAction { http_headers: Some(vec![header("a", "b\r\nc: d")]), ..get },
    ] {
        assert!(http_request(&target(bad.clone()), "1.37").is_err(), "{bad:?}");
    }
}

#[test]
fn a84_status_codes_and_redirects() {
    for (status, success) in [(200, true), (302, true), (399, true), (400, false), (199, false)] {
        assert_eq!(http_outcome(status) == Outcome::Success, success, "{status}");
    }
    let from = HttpRequest {
        https: false,
        host: "10.0.0.5".into(),
        port: 8080,
        path: "/a/b?x=1".into(),
        headers: Vec::new(),
    };
    let follow = |location: &str| match redirect(&from, location, 0) {
        Redirect::Follow(to) => format!("{}:{}{} {}", to.host, to.port, to.path, to.https),
        Redirect::Stop(Outcome::Warning(_)) => "warning".into(),
        Redirect::Stop(other) => format!("{other:?}"),
    };
    for (location, expect) in [
        ("/c", "10.0.0.5:8080/c false"),
        ("c", "10.0.0.5:8080/a/c false"),
        ("?y=2", "10.0.0.5:8080/a/b?y=2 false"),
        ("https://10.0.0.5/c#top", "10.0.0.5:443/c true"),
        ("http://10.0.0.5:81", "10.0.0.5:81/ false"),
        ("//10.0.0.5:81/z", "10.0.0.5:81/z false"),
        ("http://evil/", "warning"),
        ("http://10.0.0.5@evil/", "warning"),
        ("//169.254.169.254/latest", "warning"),
        ("ftp://10.0.0.5/", "warning"),
    ] {
        assert_eq!(follow(location), expect, "{location}");
    }
    assert!(matches!(redirect(&from, "/c", 10), Redirect::Stop(Outcome::Failure(_))));
}
