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
use longshore_core::image::{Image, KernelRows, Limits, MapOp, Physical};
use longshore_core::model::Time;
use longshore_core::oracle::{self, Flows, Hop, Icmp, Scene, Transport as T};
use longshore_packet::Verdict;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};

use crate::clusters::{Cluster, Part, cluster};
use crate::generate::Hook;
use crate::host::Model;
use crate::lab;
use crate::packets::{self, Kernel};
use crate::talk::{self, Step, frame, steps};

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
    fn new(limits: Limits) -> Self {
        let rows = KernelRows::default();
        let physical = Physical::with_limits(&rows, limits);
        Self { physical, rows, model: Model::default() }
    }

    /// The writes that lead to `image`, which are in memory already, and how much did not fit.
    /// Flows stay.
    fn become_image(&mut self, image: &Image, now_ms: i64) -> (Vec<MapOp>, usize) {
        let (ops, refused) = self.physical.plan_full_each(image, Time::from_unix_ms(now_ms));
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
        (ops, refused.len())
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
    let (mut node, mut flows) = (Node::new(Limits::default()), Flows::default());
    if let Some(kernel) = kernel {
        kernel.clear();
    }
    for (number, (cluster, steps)) in (0..).zip(life) {
        let image = cluster.image();
        let (ops, refused) = node.become_image(&image, number * 100);
        assert_eq!(refused, 0, "everything fits");
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

/// Maps that are too small for most of these clusters.
fn limits() -> impl Strategy<Value = Limits> {
    (1..9_u32, 0..9_u32, 0..6_u32, 0..9_u32, 0..9_u32, 0..40_u32).prop_map(
        |(endpoints, cidrs, groups, peers, ports, ranges)| Limits {
            endpoints,
            cidrs,
            groups,
            peers,
            ports,
            ranges,
            ..Limits::default()
        },
    )
}

/// Where a packet that passed `at` is seen next on this node; `None`: it has arrived, or left.
fn next(image: &Image, step: &Step) -> Option<Step> {
    let receiver = image.endpoints.get(&step.packet.dst)?.local?;
    let at = Hop::PodIn { ifindex: receiver.ifindex, made_here: false };
    matches!(step.at, Hop::PodOut { .. }).then(|| Step { packet: step.packet.clone(), at })
}

/// Whether the packet, which nothing is remembered of, passes every hook that it meets.
fn arrives(image: &Image, step: &Step, judge: &dyn Fn(&Step) -> oracle::Verdict) -> bool {
    match judge(step) {
        oracle::Verdict::Redirect { .. } => true,
        oracle::Verdict::Pass => next(image, step).is_none_or(|step| arrives(image, &step, judge)),
        _ => false,
    }
}

#[test]
fn i9_what_does_not_fit_is_denied_and_never_widens() {
    let seen = RefCell::new([0; 3]);
    let runs = Runs { cases: 500, failure_persistence: None, ..Runs::default() };
    let result = TestRunner::new(runs).run(&(cluster(), limits(), steps()), |case| {
        let (cluster, limits, steps) = case;
        let image = cluster.image();
        let mut node = Node::new(limits);
        let (_, refused) = node.become_image(&image, 0);
        // Excepted are errors (who complains is a router where its row did not fit) and packets
        // from elsewhere that a pod sends (they may reach the node where their row did not fit).
        let is_error = |step: &&Step| matches!(step.packet.transport, T::Icmp(Icmp::Error(_)));
        let is_forged = |step: &&Step| {
            let sender = image.endpoints.get(&step.packet.src).and_then(|row| row.local);
            sender.is_none() && matches!(talk::hook(&step.packet), Hop::PodOut { .. })
        };
        for step in steps.iter().filter(|step| !is_error(step) && !is_forged(step)) {
            // From its sender on: another hook relies on what that one has dropped.
            let step = &Step { at: talk::hook(&step.packet), packet: step.packet.clone() };
            let by_rows = arrives(&image, step, &|step| {
                node.model.flows.borrow_mut().clear();
                node.model.fragments.borrow_mut().clear();
                in_words(packets::on_host(hook(step.at), &frame(step), &node.model))
            });
            let by_image = arrives(&image, step, &|step| {
                oracle::walk(&image, &scene(), &mut Flows::default(), &step.packet, step.at).verdict
            });
            assert!(by_image || !by_rows, "passes by rows only: {step:?}\n{limits:?} {image:#?}");
            let mut seen = seen.borrow_mut();
            seen[0] += usize::from(refused > 0);
            seen[1] += usize::from(refused > 0 && by_rows);
            seen[2] += usize::from(by_image && !by_rows);
        }
        Ok(())
    });
    result.unwrap();
    let seen = seen.into_inner();
    println!("with refusals, of them passing, narrowed: {seen:?}");
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}
