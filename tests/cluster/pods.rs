//! What a pod gets from the API server: its token, its configuration, its end.

use serde_json::Value;

use crate::script::*;

/// What automounting adds.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn read(space: &Shared, pod: &str, file: &str) -> String {
    space.kubectl(&format!("exec {pod} -- cat {ACCOUNT}/{file}")).check().unwrap()
}

#[test]
fn a105_a106_a_pod_speaks_to_the_api_server_with_its_token() {
    let space = Shared::new("token");
    space.apply(&shell("box", "sleep 1000000", &on("n1")));
    space.wait_ready("box");
    let pod = space.pod("box");
    assert_eq!(read(&space, "box", "namespace"), "token");
    let ca = std::fs::read_to_string(space.cluster.dir().join("pki/ca.crt")).unwrap();
    assert_eq!(read(&space, "box", "ca.crt").trim(), ca.trim());
    // Nobody's user is known, so everybody may read it.
    let mode = space.kubectl(&format!("exec box -- stat -Lc %a {ACCOUNT}/token")).check().unwrap();
    assert_eq!(mode.trim(), "644");

    // The API server knows whose token it is: bound to the pod and to its node.
    let token = read(&space, "box", "token");
    let who = space
        .cluster
        .kubectl(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "auth", "whoami"])
        .args(["-o", "json", &format!("--server={}", longshore_tests::cluster::API_SERVER)])
        .arg(format!("--token={}", token.trim()))
        .check()
        .unwrap();
    let who: Value = serde_json::from_str(&who).unwrap();
    let who = &who["status"]["userInfo"];
    assert_eq!(who["username"], "system:serviceaccount:token:default");
    for (claim, value) in [
        ("authentication.kubernetes.io/pod-name", "box"),
        ("authentication.kubernetes.io/pod-uid", &pod.uid),
        ("authentication.kubernetes.io/node-name", "n1"),
    ] {
        assert_eq!(who["extra"][claim][0], value, "{who}");
    }

    // From inside, through the Service `kubernetes`, with the library that everybody uses.
    let client = pod_of("client", "inclusterclient --poll-interval=1", AGNHOST, &on("n2"));
    space.apply(&client);
    space.wait_ready("client");
    poll("calls from inside a pod", || {
        let text = space.kubectl("logs client").check()?;
        assert!(!text.contains("status=failed"), "{text}");
        Ok(text.matches("calling /healthz").count() >= 3)
    })
    .unwrap();
}

#[test]
fn a106_a_token_for_one_user_is_only_that_users() {
    let space = Shared::new("token-mode");
    let security = format!("{}  securityContext: {{runAsUser: 1234}}\n", on("n1"));
    space.apply(&shell("single", "sleep 1000000", &security));
    let security = format!("{}  securityContext: {{runAsUser: 1234, fsGroup: 77}}\n", on("n2"));
    space.apply(&shell("group", "sleep 1000000", &security));
    for (pod, want) in [("single", "600 1234"), ("group", "640")] {
        space.wait_ready(pod);
        let words = format!("exec {pod} -- stat -Lc '%a,%u,%g' {ACCOUNT}/token");
        let text = space.kubectl(&words.replace('\'', "")).check().unwrap().replace(',', " ");
        assert!(text.starts_with(want), "{pod}: {text}");
        assert!(read(&space, pod, "token").starts_with("ey"), "{pod} reads its token");
    }
}

#[test]
fn a70_a103_a124_a_pod_waits_for_its_configuration_and_follows_it() {
    let space = Shared::new("configuration");
    let extra = format!(
        "{}  volumes: [{{name: text, configMap: {{name: text}}}}, {{name: key, secret: {{secretName: key}}}}]\n",
        on("n2")
    );
    let text = shell("box", "echo env $WORD; sleep 1000000", &extra).trim_end().to_owned()
        + "\n      env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}]
      volumeMounts: [{name: text, mountPath: /text}, {name: key, mountPath: /key}]\n";
    space.apply(&text);
    // Nothing of it is there yet. Volumes come first.
    poll("the event that names what is missing", || {
        Ok(space.event_reasons("box").contains("FailedMount"))
    })
    .unwrap();
    space.kubectl("create configmap text --from-literal=a=one").check().unwrap();
    space.kubectl("create secret generic key --from-literal=k=secret").check().unwrap();
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = space.wait("pod box", "waiting for its words", |pod| {
        waiting(pod)["reason"] == "CreateContainerConfigError"
    });
    let message = text_of(&waiting(&pod));
    assert!(message.contains("words"), "{message}");
    space.kubectl("create configmap words --from-literal=word=given").check().unwrap();
    space.wait_ready("box");
    assert_eq!(space.kubectl("logs box").check().unwrap(), "env given\n");
    let cat = |path: &str| space.kubectl(&format!("exec box -- cat {path}")).check().unwrap();
    assert_eq!((cat("/text/a").as_str(), cat("/key/k").as_str()), ("one", "secret"));
    // Volumes follow their objects; the environment of a running container does not.
    space.kubectl("patch configmap text -p").arg(r#"{"data":{"a":"two"}}"#).check().unwrap();
    poll("the changed file", || Ok(cat("/text/a") == "two")).unwrap();
    assert!(space.get("pod box")["status"]["containerStatuses"][0]["restartCount"] == 0);
}

fn text_of(waiting: &Value) -> String {
    text(waiting, "/message")
}

#[test]
fn a62_a194_a_pods_life_is_told_and_its_end_is_final() {
    let space = Shared::new("life");
    space.apply(&pod("short", "sleep", &on("n1")));
    space.wait_ready("short");
    let pod = space.pod("short");
    poll("the events of a start", || {
        let reasons = space.event_reasons("short");
        Ok(["Scheduled", "Pulled", "Created", "Started"].iter().all(|one| reasons.contains(*one)))
    })
    .unwrap();
    let list = space.get("events --field-selector involvedObject.name=short,reason=Started");
    let event = &items(&list)[0];
    assert_eq!(event["source"], serde_json::json!({"component": "kubelet", "host": "n1"}));
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{main}");
    assert_eq!(event["involvedObject"]["uid"], pod.uid);

    let mut watch = Watched::start(*space, "pod short", "life.log");
    poll("the watch", || Ok(!watch.events().is_empty())).unwrap();
    space.delete("pod short");
    poll("its end", || Ok(watch.events().iter().any(|(kind, _)| kind == "DELETED"))).unwrap();
    let events = watch.events();
    let (_, last) = events.last().unwrap();
    // The last word about it: every container has ended, and how.
    let state = &last["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&state["exitCode"], &state["reason"]),
        (&0.into(), &"Completed".into()),
        "{last:#}"
    );
    assert_eq!(last["status"]["phase"], "Succeeded", "{last:#}");
    assert!(space.event_reasons("short").contains("Killing"));
    let left = running(space.cluster.node(1), space.name);
    assert!(left.is_empty(), "{left:?}");
    // The same name again is another pod.
    space.apply(&crate::script::pod("short", "sleep", &on("n1")));
    space.wait_ready("short");
    assert_ne!(space.pod("short").uid, pod.uid);
}

#[test]
fn a62_a_forced_deletion_ends_the_processes_too() {
    let space = Shared::new("force");
    let text = pod("hard", "sleep", &on("n2")).replace("Seconds: 2", "Seconds: 300");
    space.apply(&text.replace("'sleep'", "'web', '--delay-shutdown', '200'"));
    space.wait_ready("hard");
    assert_eq!(running(space.cluster.node(2), space.name).len(), 1);
    space.kubectl("delete pod hard --grace-period=0 --force").check().unwrap();
    poll("its processes to end", || Ok(running(space.cluster.node(2), space.name).is_empty()))
        .unwrap();
}
