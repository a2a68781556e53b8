//! kubectl logs, exec, attach and port-forward: through the API server to the node's port and on to
//! the runtime.

use std::fmt::Write as _;

use longshore_tests::process::wait_for;
use serde_json::Value;

use crate::script::*;

/// Five lines a second, numbered.
const COUNTER: &str = "i=0; while true; do echo \"line $i\"; i=$((i+1)); sleep 0.2; done";

fn numbers(text: &str) -> Vec<u64> {
    let number = |line: &str| line.rsplit_once("line ")?.1.trim().parse().ok();
    text.lines().map(|line| number(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

fn assert_consecutive(numbers: &[u64], what: &str) {
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{what}: {numbers:?}");
}

#[test]
fn a183_logs_tail_since_timestamps_and_limits() {
    let space = Shared::new("logs");
    space.apply(&shell("counter", COUNTER, &on("n1")));
    space.wait_ready("counter");
    let logs = |words: &str| space.kubectl(&format!("logs counter {words}")).check().unwrap();
    poll("five seconds of lines", || Ok(numbers(&logs("")).len() > 30)).unwrap();

    let all = numbers(&logs(""));
    assert_eq!(all[0], 0);
    assert_consecutive(&all, "all");
    let tail = numbers(&logs("--tail=3"));
    assert!(tail.len() == 3 && tail[0] >= all[all.len() - 3], "{tail:?} after {all:?}");
    assert_consecutive(&tail, "--tail=3");
    assert_eq!(logs("--tail=0"), "");
    assert_eq!(logs("--limit-bytes=10"), "line 0\nlin");

    // Each line has its own time, and they go up.
    let stamped = logs("--timestamps --tail=20");
    let times: Vec<&str> =
        stamped.lines().filter_map(|line| Some(line.split_once(' ')?.0)).collect();
    assert_eq!(times.len(), 20, "{stamped}");
    assert!(times.iter().all(|time| time.starts_with("20") && time.contains('T')), "{times:?}");
    assert!(times.is_sorted(), "{times:?}");

    // Seconds, as the API has them: what is older is left out.
    let since = format!("{}Z", &times[10][..19]);
    let late = logs(&format!("--since-time={since} --timestamps"));
    let first = late.lines().next().unwrap().split_once(' ').unwrap().0;
    assert!(first >= times[10].split('.').next().unwrap(), "{first} is before {since}");
    assert_consecutive(&numbers(&late), "--since-time");
    let recent = numbers(&logs("--since=2s"));
    assert!(!recent.is_empty() && recent[0] > 0, "{recent:?}");
    assert_consecutive(&recent, "--since=2s");
}

#[test]
fn a183_logs_follow_until_the_container_ends() {
    let space = Shared::new("follow-logs");
    space.apply(&shell("counter", COUNTER, &on("n2")));
    space.wait_ready("counter");
    let log = space.cluster.dir().join("follow.log");
    let mut follow = space.kubectl("logs -f counter --tail=1").own_group().start(&log).unwrap();
    wait_for("lines to follow", LIMIT_S, || {
        assert_eq!(follow.exited()?, None, "{}", follow.log());
        Ok(follow.log().lines().count() > 10)
    })
    .unwrap();
    let text = follow.log();
    // The last line may be there by half.
    let whole: String = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    assert_consecutive(&numbers(&whole), "-f");
    follow.kill9().unwrap();

    // It ends by itself with the container, and has everything.
    let script = "for i in 0 1 2 3 4 5 6 7 8 9; do echo \"line $i\"; sleep 0.3; done";
    space.apply(&shell("ends", script, "  restartPolicy: Never\n"));
    let started = |pod: &Value| {
        !pod["status"]["containerStatuses"][0]["state"]["waiting"].is_object()
            && pod["status"]["containerStatuses"].is_array()
    };
    space.wait("pod ends", "started", started);
    let text = space.kubectl("logs -f ends").check().unwrap();
    assert_eq!(numbers(&text), (0..10).collect::<Vec<_>>());
}

#[test]
fn a183_logs_of_the_previous_instance() {
    let space = Shared::new("previous");
    let script = "if test -e /data/ran; then echo second; sleep 1000000; fi
touch /data/ran
echo first
exit 3";
    let mounts = "      volumeMounts: [{name: data, mountPath: /data}]\n  volumes: [{name: data, emptyDir: {}}]\n";
    space.apply(&(shell("twice", script, "").trim_end().to_owned() + "\n" + mounts));
    let restarted =
        |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(pod);
    let pod = space.wait("pod twice", "restarted", restarted);
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&3.into(), &"Error".into()), "{last}");
    assert_eq!(space.kubectl("logs -p twice").check().unwrap(), "first\n");
    assert_eq!(space.kubectl("logs twice").check().unwrap(), "second\n");
    // What has no log says why.
    let output = space.kubectl("logs twice -c other").output().unwrap();
    assert!(!output.ok() && output.text.contains("other"), "{}", output.text);
    space.apply(&pod_without_image());
    space.wait("pod noimage", "waiting", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("Image"))
    });
    let output = space.kubectl("logs noimage").output().unwrap();
    assert!(!output.ok() && output.text.contains("waiting to start"), "{}", output.text);
}

fn pod_without_image() -> String {
    pod("noimage", "sleep", "").replace("workload:1", "is-not-there:1")
}

#[test]
fn a182_exec_has_stdin_both_outputs_and_the_exit_code() {
    let space = Shared::new("exec");
    space.apply(&shell("box", "sleep 1000000", &on("n2")));
    space.wait_ready("box");
    // Both protocols: WebSocket first, as kubectl does by itself, then SPDY.
    for websockets in ["true", "false"] {
        let exec = |words: &str| {
            space
                .kubectl(&format!("exec {words}"))
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        };
        let output = exec("box -- echo hello").output().unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), "hello\n"), "{}", output.text);
        let output = exec("box -- sh -c").arg("echo out; echo err >&2; exit 7").output().unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (Some(7), "out\n"), "{}", output.text);
        assert!(output.text.contains("err\n"), "{}", output.text);
        // A megabyte in and out again.
        let mut big = String::new();
        for number in 0..60_000 {
            let _ = writeln!(big, "a line of {number:06}");
        }
        let output = exec("-i box -- cat").input(&big).unwrap().output().unwrap();
        assert!(
            output.ok() && output.stdout == big,
            "{:?}, {} bytes",
            output.code,
            output.stdout.len()
        );
        let output = exec("box -- /bin/is-not-there").output().unwrap();
        assert!(!output.ok() && output.text.contains("is-not-there"), "{}", output.text);
        // Of a pod that does not exist, and of a container that does not.
        let output = exec("box -c other -- true").output().unwrap();
        assert!(!output.ok() && output.text.contains("other"), "{}", output.text);
    }
}

#[test]
fn a182_attach_shows_what_the_container_prints() {
    let space = Shared::new("attach");
    space.apply(&shell("counter", COUNTER, &on("n1")));
    space.wait_ready("counter");
    let log = space.cluster.dir().join("attach.log");
    let child = space.kubectl("attach counter").own_group().start(&log).unwrap();
    wait_for("attached lines", LIMIT_S, || {
        Ok(child.log().lines().filter(|line| line.starts_with("line ")).count() > 5)
    })
    .unwrap();
    // Attached, not replayed: the first line was before.
    assert!(!child.log().lines().any(|line| line == "line 0"), "{}", child.log());
}

#[test]
fn a182_port_forward_carries_many_connections() {
    let space = Shared::new("forward");
    space.apply(&pod("web", "web --port 8080", &on("n2")));
    space.wait_ready("web");
    for websockets in ["true", "false"] {
        let log = space.cluster.dir().join(format!("forward-{websockets}.log"));
        let mut forward = space
            .kubectl("port-forward pod/web :8080")
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .own_group()
            .start(&log)
            .unwrap();
        let mut port = String::new();
        wait_for("the local port", LIMIT_S, || {
            assert_eq!(forward.exited()?, None, "{}", forward.log());
            let text = forward.log();
            let local = text.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(" -> "));
            port = local.map(|(port, _)| port.to_owned()).unwrap_or_default();
            Ok(!port.is_empty())
        })
        .unwrap();
        let workload = space.cluster.options().lab.workload.display().to_string();
        let get = |words: &str| {
            space.cluster.control_plane().run(&workload).arg("get").words(words).output().unwrap()
        };
        let output = get(&format!("http://127.0.0.1:{port}/ --count 20"));
        assert!(output.ok() && output.stdout.contains("web\n"), "{}{}", output.text, forward.log());
        let output = get(&format!("http://127.0.0.1:{port}/bytes/3000000 --count 3"));
        assert!(output.stdout.contains("3 ok, 0 failed"), "{}{}", output.text, forward.log());
        // Two at once on one forward: the slow one does not hold up the other.
        std::thread::scope(|scope| {
            let slow =
                scope.spawn(|| get(&format!("http://127.0.0.1:{port}/bytes/600000?rate=300000")));
            let fast = get(&format!("http://127.0.0.1:{port}/ --count 5"));
            assert!(fast.ok(), "{}", fast.text);
            let slow = slow.join().unwrap();
            assert!(slow.ok(), "{}", slow.text);
        });
        assert_eq!(forward.exited().unwrap(), None, "{}", forward.log());
    }
}
