//! Connect, request, response, close; and how soon a policy's edit is felt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use longshore_tests::cgroup;
use longshore_tests::lab::{Lab, WORKLOAD_IMAGE};
use longshore_tests::netns::Netns;
use longshore_tests::node::Node;
use longshore_tests::process::{Run, wait_for};

use crate::median;

const SERVICE: &str = "10.97.0.71:7001";

/// New connections in a second, median of the rounds.
pub struct Rates {
    pub service: f64,
    /// The pod's own address, by the same hooks.
    pub pod: f64,
    /// Two namespaces and a router between them: no hook, no netfilter.
    pub routed: f64,
    /// The same two namespaces with a veth pair of their own.
    pub veth: f64,
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, pod, routed, veth } = self;
        write!(
            f,
            "{service:.0}/s Service, {pod:.0}/s pod IP, {routed:.0}/s routed, {veth:.0}/s veth"
        )
    }
}

pub fn rates(node: &Node, rounds: usize) -> Result<Rates> {
    node.write("crr.yaml", &manifests())?;
    let command = format!("connect {SERVICE} --timeout 1");
    wait_for("the Service to answer", 30, || {
        // The pods may not run yet.
        Ok(node.exec("bench", "client", &command).is_ok_and(|output| output.ok()))
    })?;
    let pod = pod_address(node)?;
    let plain = Plain::new(node)?;
    let server = plain.run(&plain.server, "crr-server --port 7001");
    let _server = server.start(&node.dir().join("plain.log"))?;
    let (mut service, mut direct, mut veth) = (Vec::new(), Vec::new(), Vec::new());
    let mut routed = Vec::new();
    for _ in 0..rounds {
        let in_pod = |to: &str| node.exec("bench", "client", &format!("crr {to} --seconds 2"));
        let outside = |to: &str| {
            let words = format!("crr {to}:7001 --seconds 2");
            plain.run(&plain.client, &words).output()
        };
        service.push(rate(&in_pod(SERVICE)?.text)?);
        direct.push(rate(&in_pod(&pod)?.text)?);
        routed.push(rate(&outside(ROUTED)?.text)?);
        veth.push(rate(&outside(BARE)?.text)?);
    }
    Ok(Rates {
        service: median(service),
        pod: median(direct),
        routed: median(routed),
        veth: median(veth),
    })
}

/// The plain server's addresses: behind the router, and at the other end of a veth pair.
const ROUTED: &str = "10.231.2.2";
const BARE: &str = "10.231.3.2";

/// What a plain CNI gives: network namespaces, and the kernel routing between them. Its processes
/// are in cgroups as deep as a pod's: the kernel charges their sockets as it does a pod's.
struct Plain {
    workload: String,
    client: Netns,
    server: Netns,
    _router: Netns,
    cgroup: String,
}

impl Plain {
    fn new(node: &Node) -> Result<Self> {
        let name = |part: &str| format!("{}-{part}", node.name());
        let router = Netns::new(&name("router"))?;
        let (client, server) = (Netns::new(&name("ra"))?, Netns::new(&name("rb"))?);
        client.link("eth0", "10.231.1.2/30", &router, "ra0", "10.231.1.1/30")?;
        server.link("eth0", &format!("{ROUTED}/30"), &router, "rb0", "10.231.2.1/30")?;
        client.link("bare0", "10.231.3.1/30", &server, "bare0", &format!("{BARE}/30"))?;
        client.ip("route add default via 10.231.1.1")?;
        server.ip("route add default via 10.231.2.1")?;
        router.run("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).check()?;
        let workload = Lab::from_env()?.workload.display().to_string();
        let cgroup = format!("/{}/pods/pod/container", name("plain"));
        Ok(Self { workload, client, server, _router: router, cgroup })
    }

    /// The workload in `netns`, in the plain cgroup of each hierarchy.
    fn run(&self, netns: &Netns, words: &str) -> Run {
        let dirs: Vec<String> = cgroup::hierarchies()
            .into_iter()
            // A new cpuset has no CPU; it costs nothing per packet either.
            .filter(|at| !at.ends_with("cpuset"))
            .map(|at| format!("{}{}", at.display(), self.cgroup))
            .collect();
        let join = "for dir in $DIRS; do mkdir -p $dir; echo $$ > $dir/cgroup.procs; done";
        netns
            .run("sh")
            .env("DIRS", dirs.join(" "))
            .args(["-c", &format!("{join}; exec {} {words}", self.workload)])
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let root = self.cgroup.split('/').nth(1).unwrap_or_default();
        cgroup::remove(&format!("/{root}"));
    }
}

/// `12345 per second, …`
fn rate(text: &str) -> Result<f64> {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no rate in: {text}"))
}

/// The address that the server itself sees.
fn pod_address(node: &Node) -> Result<String> {
    let container = node.ctr().find("bench", "server")?;
    let pid = container.pid.context("the server does not run")?;
    let text = longshore_tests::process::Run::new("nsenter")
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .words("ip -4 -o address show dev eth0")
        .check()?;
    let address = text.split_whitespace().nth(3).and_then(|word| word.split('/').next());
    Ok(format!("{}:7001", address.context("the pod has no address")?))
}

fn pod(name: &str, args: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bench, labels: {{app: {name}}}}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n    - name: main\n      \
         image: {WORKLOAD_IMAGE}\n      args: [{args}]\n"
    )
}

fn manifests() -> String {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: server, namespace: bench}\nspec:\n  \
         clusterIP: 10.97.0.71\n  selector: {app: server}\n  ports: [{port: 7001}]\n";
    [pod("server", "crr-server"), pod("client", "sleep"), service.to_owned()].join("---\n")
}

fn policy(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: edit, namespace: bench}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  policyTypes: [Ingress]\n  ingress:\n    \
         - from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]\n"
    )
}

/// From the rename of the file to the first connection that the edit allows; median in
/// milliseconds. A refused SYN is not repeated for 1 s, so the client gives up after 20 ms and
/// makes a new one: that is the resolution.
pub fn edits(node: &Node, rounds: usize) -> Result<f64> {
    let mut times = Vec::new();
    for round in 0..rounds {
        node.write("edit.yaml", &policy("nobody"))?;
        let denied = format!("connect {SERVICE} --timeout 0.2");
        wait_for("the policy to deny", 10, || Ok(!node.exec("bench", "client", &denied)?.ok()))?;
        let log = node.dir().join(format!("edit{round}.log"));
        let tries = format!("connect {SERVICE} --timeout 0.02 --count 250");
        let mut client = node.exec_run("bench", "client", &tries)?.start(&log)?;
        wait_for("the client to try", 5, || Ok(client.log().contains("timed out")))?;
        let start = Instant::now();
        node.write("edit.yaml", &policy("client"))?;
        while !client.log().contains("connected") {
            if start.elapsed() > Duration::from_secs(10) {
                bail!("the edit had no effect in 10 s");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        client.wait(20)?;
    }
    node.remove("edit.yaml")?;
    Ok(median(times))
}
