//! A watch that ends wrongly, again and again: nothing is lost, nothing is taken away.

use crate::proxy::{Mode, Proxy};
use crate::script::*;

#[test]
fn f26_i12_watches_that_answer_410_or_garbage_lose_nothing() {
    let mut cluster = cluster("watch", 1, |_| {});
    let proxy = Proxy::start(&cluster);
    cluster.stop_agent(1).unwrap();
    proxy.lead_here(&cluster.node(1).kubeconfig());
    proxy.lead_here(&cluster.node(1).dataplane_kubeconfig());
    cluster.start_agent(1).unwrap();
    wait_answers(cluster.node(1));
    let space = e2e(&cluster);
    space.apply(&netexec("web", 2, "", ""));
    space.apply(&pod("client", "sleep", ""));
    space.wait_rolled_out("web");
    space.wait_ready("client");
    let client = space.pod("client");
    let request = format!("get http://{}/hostname --timeout 2", space.cluster_ip("web"));
    space.wait_ok(&client, &request);
    let web: Vec<String> = space.pods("web").into_iter().map(|pod| pod.name).collect();
    let steady = || {
        let mut all = running(cluster.node(1), E2E);
        all.retain(|(pod, _), _| web.contains(pod) || pod == "client");
        all
    };
    let tasks = steady();

    for mode in [Mode::Gone, Mode::Garbage, Mode::Cut] {
        let name = format!("{mode:?}").to_lowercase();
        let (goes, comes) = (format!("goes-{name}"), format!("comes-{name}"));
        space.apply(&pod(&goes, "sleep", ""));
        space.wait_ready(&goes);
        let said = std::fs::read_to_string(cluster.node(1).agent_log()).unwrap().len();
        let before = proxy.broken();
        proxy.set(mode);
        space.apply(&pod(&comes, "sleep", ""));
        space.kubectl(&format!("delete pod {goes} --wait=false")).check().unwrap();
        poll("watches to be broken again and again", || {
            assert_eq!(steady(), tasks, "{mode:?}");
            Ok(proxy.broken() >= before + 12)
        })
        .unwrap();
        let output = space.exec(&client, &format!("{request} --count 20"));
        assert!(output.ok(), "{mode:?}: {}", output.text);
        proxy.set(Mode::Pass);
        // It recovers by itself.
        space.wait_ready(&comes);
        poll("the deleted pod to be gone", || {
            Ok(!running(cluster.node(1), E2E).keys().any(|(pod, _)| *pod == goes))
        })
        .unwrap();
        assert_eq!(steady(), tasks, "{mode:?}");
        let log = std::fs::read_to_string(cluster.node(1).agent_log()).unwrap();
        let news = &log[said..];
        // A version that is too old and an end of the connection are no faults: the watch goes on.
        assert!(
            mode != Mode::Garbage || news.to_lowercase().contains("watch"),
            "{mode:?}: the log does not say it:\n{news}"
        );
        assert!(news.lines().count() < 400, "{mode:?}: {} lines", news.lines().count());
    }
}
