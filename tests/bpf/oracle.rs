//! The oracle, the packet crate on the host and the programs in the kernel, over one image.
//!
//! Policies are compiled, the image becomes rows, and random packets are judged three times: by
//! walking the image's terms, over the rows in memory, and over the rows in the kernel's maps.
//! Between them the cluster changes, so flows of old stamps are met too.
//!
//! Not covered: ages (the kernel's clock is real), Services (a socket's business; see `sockets`)
//! and malformed frames beyond one (the oracle's packets are data).

use std::cell::RefCell;
use std::collections::BTreeMap;

use longshore_abi::DropReason;
use longshore_core::image::{Image, KernelRows, MapOp, Physical};
use longshore_core::model::Time;
use longshore_core::oracle::{self, Flows, Hop, Scene};
use longshore_packet::Verdict;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};

use crate::clusters::{Cluster, Part, cluster};
use crate::generate::Hook;
use crate::host::Model;
use crate::lab;
use crate::packets::{self, Kernel};
use crate::talk::{Step, frame, steps};

/// One node's life: clusters, each with the packets that meet it.
type Life = Vec<(Cluster, Vec<Step>)>;

/// What was met, to keep the generators honest.
type Seen = RefCell<BTreeMap<String, u32>>;

/// The rows of an image in memory, and what led to them.
struct Node {
    physical: Physical,
    rows: KernelRows,
    model: Model,
}

impl Node {
    fn new() -> Self {
        let rows = KernelRows::default();
        Self { physical: Physical::adopt(&rows), rows, model: Model::default() }
    }

    /// The writes that lead to `image`; they are in memory already. Flows stay.
    fn become_image(&mut self, image: &Image, now_ms: i64) -> Vec<MapOp> {
        let (ops, refused) = self.physical.plan_full_each(image, Time::from_unix_ms(now_ms));
        assert!(refused.is_empty(), "{refused:?}");
        ops.iter().for_each(|op| self.rows.apply(op));
        let KernelRows { endpoints, cidrs, groups, peers, ports, ranges, .. } = self.rows.clone();
        let (flows, fragments) = (self.model.flows.take(), self.model.fragments.take());
        self.model = Model {
            endpoints,
            cidrs,
            groups,
            peers,
            ports,
            ranges,
            flows: flows.into(),
            fragments: fragments.into(),
            now_ns: 0.into(),
        };
        ops
    }
}

fn scene() -> Scene {
    Scene { service_cidr: Some("10.96.0.0/16".parse().unwrap()), now_ns: 0 }
}

fn hook(at: Hop) -> Hook {
    if matches!(at, Hop::PodOut { .. }) { Hook::Out } else { Hook::In }
}

/// The oracle's words for a verdict of the programs.
fn in_words(verdict: Verdict) -> oracle::Verdict {
    match verdict {
        Verdict::Pass => oracle::Verdict::Pass,
        Verdict::Redirect { ifindex, .. } => oracle::Verdict::Redirect { ifindex },
        Verdict::Drop(reason) => oracle::Verdict::Drop(reason),
    }
}

fn note(seen: &Seen, walk: &oracle::Walk) {
    let mut seen = seen.borrow_mut();
    let word = match &walk.verdict {
        oracle::Verdict::Drop(reason) => reason.word().to_owned(),
        other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
    };
    *seen.entry(word).or_default() += 1;
    for step in &walk.steps {
        let step = format!("{step:?}");
        let name = step.split(['(', ' ']).next().unwrap_or_default();
        *seen.entry(name.to_owned()).or_default() += 1;
    }
}

/// Lives through `life`, on the host and (if there is one) in the kernel.
fn live(life: &Life, kernel: Option<&Kernel>, seen: &Seen) {
    let (mut node, mut flows) = (Node::new(), Flows::default());
    if let Some(kernel) = kernel {
        kernel.clear();
    }
    for (number, (cluster, steps)) in (0..).zip(life) {
        let image = cluster.image();
        let ops = node.become_image(&image, number * 100);
        if let Some(kernel) = kernel {
            kernel.apply(&ops, &node.model);
        }
        for step in steps {
            let walk = oracle::walk(&image, &scene(), &mut flows, &step.packet, step.at);
            note(seen, &walk);
            let frame = frame(step);
            let verdict = packets::on_host(hook(step.at), &frame, &node.model);
            let at = || format!("cluster {number}, {step:?}\n{walk:?}\n{image:#?}");
            assert_eq!(in_words(verdict), walk.verdict, "host and oracle: {}", at());
            if let Some(kernel) = kernel {
                kernel.check(hook(step.at), &frame, verdict, &at);
            }
            assert_eq!(node.model.flows.borrow().len(), flows.len(), "flows: {}", at());
        }
    }
    if let Some(kernel) = kernel {
        kernel.check_flows(&node.model);
    }
}

/// A cluster, and mostly another that shares a part with it and meets the same packets again: what
/// was open is judged anew only where something has changed.
fn life() -> impl Strategy<Value = Life> {
    let change = select(vec![None, Some(Part::Pods), Some(Part::Policies), Some(Part::Policies)]);
    ([cluster().boxed(), cluster().boxed()], [steps().boxed(), steps().boxed()], change).prop_map(
        |([first, other], [steps, more], change)| match change {
            None => vec![(first, steps)],
            Some(part) => {
                let second = first.with(part, other);
                let again = [steps.clone(), more].concat();
                vec![(first, steps), (second, again)]
            }
        },
    )
}

fn run(cases: u32, kernel: Option<&Kernel>) -> BTreeMap<String, u32> {
    let seen = Seen::default();
    let mut runner = TestRunner::new(Runs { cases, failure_persistence: None, ..Runs::default() });
    let result = runner.run(&life(), |life| {
        live(&life, kernel, &seen);
        Ok(())
    });
    result.unwrap();
    seen.into_inner()
}

fn assert_everything_was_met(seen: &BTreeMap<String, u32>) {
    println!("{seen:?}");
    let socket = [DropReason::ServiceRace, DropReason::NoLocalEndpoint];
    let reasons = DropReason::ALL.into_iter().filter(|reason| !socket.contains(reason));
    let steps = [
        "Pass",
        "Redirect",
        "Arp",
        "Node",
        "NoRow",
        "Spoofed",
        "NotOpen",
        "NotIsolated",
        "Known",
        "Related",
        "MayOpen",
        "MayOpenBack",
        "FirstFragmentUnknown",
    ];
    for word in reasons.map(DropReason::word).chain(steps) {
        assert!(seen.contains_key(word), "no packet met {word}");
    }
}

#[test]
fn i8_oracle_host_and_kernel_give_the_same_verdicts() {
    lab::run("oracle::i8_oracle_host_and_kernel_give_the_same_verdicts", |lab| {
        let kernel = Kernel::new(lab);
        assert_everything_was_met(&run(250, Some(&kernel)));
    });
}

#[test]
fn i8_oracle_and_host_give_the_same_verdicts() {
    assert_everything_was_met(&run(500, None));
}
