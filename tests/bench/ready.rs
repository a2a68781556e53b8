//! From the wish at an API server to a pod that a watch shows as Ready.

use std::time::{Duration, Instant};

use anyhow::Result;
use longshore_tests::cri::Cri;
use longshore_tests::lab::WORKLOAD_IMAGE;
use longshore_tests::node::Node;

use crate::api::{Api, NAMESPACE};
use crate::pods::bare_pod;
use crate::{KUBELET_NODE, LONGSHORE_NODE, median, ms};

/// Milliseconds, by who started the pod.
#[derive(Default)]
pub struct Starts {
    floor: Vec<f64>,
    longshore: Agent,
    kubelet: Agent,
}

#[derive(Default)]
struct Agent {
    /// The POST itself until the watch shows the pod as it was made.
    added: Vec<f64>,
    /// From before the POST.
    ready: Vec<f64>,
}

impl Starts {
    pub fn over_floor(&self) -> f64 {
        self.longshore.ready_p50() / median(self.floor.clone())
    }

    pub fn kubelet_over_longshore(&self) -> f64 {
        self.kubelet.ready_p50() / self.longshore.ready_p50()
    }
}

impl std::fmt::Display for Starts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { floor, longshore, kubelet } = self;
        let (count, floor) = (floor.len(), median(floor.clone()));
        writeln!(
            f,
            "    {count} pods each, nodeName set; before the POST until a watch shows Ready:"
        )?;
        writeln!(f, "    Longshore {longshore}, kubelet {kubelet};")?;
        write!(
            f,
            "    floor: the three CRI calls with the bridge plugin and no agent, {floor:.0} ms"
        )
    }
}

impl Agent {
    fn ready_p50(&self) -> f64 {
        median(self.ready.clone())
    }
}

impl std::fmt::Display for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ms (ADDED after {:.0})", self.ready_p50(), median(self.added.clone()))
    }
}

/// `count` pods by each, in turn and in changing order.
pub fn starts(floor: &Node, api: &Api, count: usize) -> Result<Starts> {
    let mut starts = Starts::default();
    let mut cri = Cri::connect(&floor.containerd().socket())?;
    for round in 0..=count {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => starts.floor.push(floor_start(floor, &mut cri, round)?),
                1 => starts.longshore.start(api, LONGSHORE_NODE, round)?,
                _ => starts.kubelet.start(api, KUBELET_NODE, round)?,
            }
            // What an agent still tidies up is not the next one's time.
            std::thread::sleep(Duration::from_secs(1));
        }
        if round == 0 {
            // It fills caches.
            starts = Starts::default();
        }
    }
    Ok(starts)
}

impl Agent {
    fn start(&mut self, api: &Api, node: &str, round: usize) -> Result<()> {
        let name = format!("{node}-{round}");
        let start = Instant::now();
        api.create(&pod(&name, node))?;
        let added = api.wait(&format!("{name} to be seen"), |event| event.pod == name)?;
        let ready =
            api.wait(&format!("{name} to be Ready"), |event| event.pod == name && event.ready)?;
        self.added.push(ms(added.at - start));
        self.ready.push(ms(ready.at - start));
        api.delete(&name)?;
        api.wait(&format!("{name} to be gone"), |event| {
            event.pod == name && event.kind == "DELETED"
        })?;
        Ok(())
    }
}

/// What both agents do in any case; what only a real pod has (its token, its log) is not in it.
fn floor_start(node: &Node, cri: &mut Cri, round: usize) -> Result<f64> {
    let pod = bare_pod(node, format!("ready{round}"), ["sleep".to_owned(), "100000".to_owned()]);
    let start = Instant::now();
    let sandbox = cri.run_pod(&pod)?;
    let time = start.elapsed();
    cri.remove_pod(&sandbox)?;
    Ok(ms(time))
}

/// As a user writes it, but bound to its node: no scheduler takes part.
pub fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n    - name: main\n      \
         image: {WORKLOAD_IMAGE}\n      args: [sleep, '100000']\n"
    )
}
