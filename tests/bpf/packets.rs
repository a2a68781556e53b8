//! The classifiers in the kernel against the same source on the host, by BPF_PROG_TEST_RUN.
//!
//! Not covered: what follows the verdict (the redirect itself), frames without a whole network
//! header and VLAN tags beside the frame (the kernel's test run takes neither), and ages (its clock is real;
//! `longshore-packet`'s own tests cover them).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use longshore::dataplane::Dataplane;
use longshore::sys::bpf::{Row, Table};
use longshore_abi::{DropReason, FlowKey, FlowValue, FragmentKey, FragmentValue};
use longshore_core::image::{KernelRows, MapOp};
use longshore_packet::{Config, Verdict, pod_in, pod_out};
use proptest::test_runner::{Config as Runs, TestRunner};

use crate::generate::{self, Hook, Node, Step};
use crate::host::{Frame, Ip, Model, SYN};
use crate::lab::{self, Lab};

const CONFIG: Config = Config {
    service_base: u32::from_ne_bytes([10, 96, 0, 0]),
    service_mask: u32::from_ne_bytes([255, 255, 0, 0]),
};

/// `struct __sk_buff` of the UAPI, of which a test run takes few fields.
const SKB_LEN: usize = 192;
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_IFINDEX: usize = 40;

/// The programs and maps of one dataplane, on interfaces for [`generate::PODS`].
pub struct Kernel {
    dataplane: Dataplane,
    pod_out: SchedClassifier,
    pod_in: SchedClassifier,
    flows: [Table<FlowKey, FlowValue>; 2],
    fragments: Table<FragmentKey, FragmentValue>,
    loaded: RefCell<Model>,
}

/// The map behind a pin.
pub fn table<K: Row, V: Row>(pin: &Path) -> Table<K, V> {
    use std::os::fd::AsFd;
    let map = MapData::from_pin(pin).unwrap();
    let info = map.info().unwrap();
    let fd = map.fd().as_fd().try_clone_to_owned().unwrap();
    Table::new(fd, info.key_size(), info.value_size()).unwrap()
}

impl Kernel {
    pub fn new(lab: &Lab) -> Self {
        for (_, ifindex) in generate::PODS {
            lab::ip(&format!("link add name p{ifindex} index {ifindex} type veth"));
        }
        let dataplane = lab.open();
        let program = |name| SchedClassifier::from_pin(lab.pin(&format!("progs/{name}"))).unwrap();
        Self {
            dataplane,
            pod_out: program("pod_out"),
            pod_in: program("pod_in"),
            flows: ["maps/flows_tcp", "maps/flows_any"].map(|name| table(&lab.pin(name))),
            fragments: table(&lab.pin("maps/fragments")),
            loaded: RefCell::default(),
        }
    }

    fn load(&self, rows: &Model) {
        self.clear();
        self.apply(&puts(rows), rows);
    }

    /// Writes `ops`, which lead to `rows`.
    pub fn apply(&self, ops: &[MapOp], rows: &Model) {
        self.dataplane.apply(ops).unwrap();
        *self.loaded.borrow_mut() = rows.clone();
    }

    /// Deletes all rows that were written, flows and fragments.
    pub fn clear(&self) {
        self.dataplane.apply(&deletes(&self.loaded.take())).unwrap();
        for flows in &self.flows {
            for (key, _) in flows.rows().unwrap() {
                flows.delete(&key).unwrap();
            }
        }
        for (key, _) in self.fragments.rows().unwrap() {
            self.fragments.delete(&key).unwrap();
        }
    }

    /// Runs the program once: it must do what `verdict` says, and count it if it is a drop.
    pub fn check(&self, hook: Hook, frame: &Frame, verdict: Verdict, at: &dyn Fn() -> String) {
        let mut drops = self.dataplane.drops().unwrap();
        let (code, bytes, _) = self.run(hook, frame, 1);
        let (expect_code, expect_bytes) = expected(verdict, frame);
        assert_eq!(code, expect_code, "host says {verdict:?}: {}", at());
        assert_eq!(bytes, expect_bytes, "{}", at());
        if let Verdict::Drop(reason) = verdict {
            *drops.get_mut(&reason).unwrap() += 1;
        }
        assert_eq!(self.dataplane.drops().unwrap(), drops, "{}", at());
    }

    /// The program's return code, the frame afterwards, and ns per run.
    fn run(&self, hook: Hook, frame: &Frame, repeat: u32) -> (u32, Vec<u8>, Duration) {
        let mut ctx = [0; SKB_LEN];
        ctx[SKB_INGRESS_IFINDEX..][..4].copy_from_slice(&frame.ingress_ifindex.to_ne_bytes());
        ctx[SKB_IFINDEX..][..4].copy_from_slice(&frame.ifindex.to_ne_bytes());
        let mut out = vec![0; frame.bytes.len() + 64];
        let options = TestRunOptions {
            data_in: Some(&frame.bytes),
            data_out: Some(&mut out),
            ctx_in: Some(&ctx),
            repeat,
            ..TestRunOptions::new()
        };
        let program = match hook {
            Hook::Out => &self.pod_out,
            Hook::In => &self.pod_in,
        };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out, result.duration)
    }

    /// The flows are those of `rows`, but for their times.
    pub fn check_flows(&self, rows: &Model) {
        let flows = self.dataplane.flow_rows().unwrap();
        assert_eq!(timeless(&flows), timeless(&rows.flows.borrow()));
    }
}

fn deletes(rows: &Model) -> Vec<MapOp> {
    let mut ops: Vec<MapOp> = rows.endpoints.keys().map(|key| MapOp::DelEndpoint(*key)).collect();
    ops.extend(rows.cidrs.keys().map(|key| MapOp::DelCidr(*key)));
    ops.extend(rows.groups.keys().map(|key| MapOp::DelGroup(*key)));
    ops.extend(rows.peers.keys().map(|key| MapOp::DelPeer(*key)));
    ops.extend(rows.ports.keys().map(|key| MapOp::DelPort(*key)));
    ops.extend(rows.ranges.keys().map(|key| MapOp::DelRange(*key)));
    ops
}

fn puts(rows: &Model) -> Vec<MapOp> {
    let mut ops: Vec<MapOp> =
        rows.ranges.iter().map(|(key, value)| MapOp::PutRange(*key, *value)).collect();
    ops.extend(rows.ports.iter().map(|(key, value)| MapOp::PutPort(*key, *value)));
    ops.extend(rows.peers.iter().map(|(key, value)| MapOp::PutPeer(*key, *value)));
    ops.extend(rows.groups.iter().map(|(key, value)| MapOp::PutGroup(*key, *value)));
    ops.extend(rows.cidrs.iter().map(|(key, value)| MapOp::PutCidr(*key, *value)));
    ops.extend(rows.endpoints.iter().map(|(key, value)| MapOp::PutEndpoint(*key, *value)));
    ops
}

/// Return code and frame that a verdict must become.
fn expected(verdict: Verdict, frame: &Frame) -> (u32, Vec<u8>) {
    let mut bytes = frame.bytes.clone();
    match verdict {
        Verdict::Pass => (0, bytes),
        Verdict::Drop(_) => (2, bytes),
        Verdict::Redirect { mac, .. } => {
            bytes[..6].copy_from_slice(&mac);
            (7, bytes)
        }
    }
}

/// The packet crate's verdict over rows in memory.
pub fn on_host(hook: Hook, frame: &Frame, rows: &Model) -> Verdict {
    match hook {
        Hook::Out => pod_out(frame, rows, &CONFIG),
        Hook::In => pod_in(frame, rows),
    }
}

/// Whether the kernel's test run takes the frame: it wants the network header whole.
fn is_runnable(frame: &Frame) -> bool {
    let network_len = match frame.bytes.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        Some(_) => 1,
        None => return false,
    };
    frame.bytes.len() >= 14 + network_len
}

/// Without the time, which differs.
fn timeless(flows: &BTreeMap<FlowKey, FlowValue>) -> BTreeMap<FlowKey, FlowValue> {
    flows.iter().map(|(key, value)| (*key, FlowValue { seen_ns: 0, ..*value })).collect()
}

fn compare(kernel: &Kernel, node: &Node, steps: &[Step], seen: &mut BTreeMap<String, u32>) {
    kernel.load(&node.rows);
    let model = node.rows.clone();
    let runnable = steps.iter().filter(|step| is_runnable(&step.frame));
    for (number, step) in runnable.enumerate() {
        let verdict = on_host(step.hook, &step.frame, &model);
        let at = || format!("step {number} {step:x?}");
        kernel.check(step.hook, &step.frame, verdict, &at);
        let word = match verdict {
            Verdict::Drop(reason) => reason.word(),
            Verdict::Pass => "pass",
            Verdict::Redirect { .. } => "redirect",
        };
        *seen.entry(format!("{:?} {word}", step.hook)).or_default() += 1;
        if generate::is_icmp(&step.frame) {
            *seen.entry("icmp".to_owned()).or_default() += 1;
        }
    }
    kernel.check_flows(&model);
}

#[test]
fn i8_kernel_and_host_give_the_same_verdicts() {
    lab::run("packets::i8_kernel_and_host_give_the_same_verdicts", |lab| {
        let kernel = Kernel::new(lab);
        let seen = RefCell::new(BTreeMap::new());
        let runs = Runs { cases: 300, failure_persistence: None, ..Runs::default() };
        let mut runner = TestRunner::new(runs);
        let result = runner.run(&(generate::node(), generate::steps()), |(node, steps)| {
            compare(&kernel, &node, &steps, &mut seen.borrow_mut());
            Ok(())
        });
        result.unwrap();
        let seen = seen.into_inner();
        println!("{seen:?}");
        for reason in DropReason::ALL {
            // The socket hooks' own.
            if matches!(reason, DropReason::ServiceRace | DropReason::NoLocalEndpoint) {
                continue;
            }
            let hit = |hook: &str| seen.contains_key(&format!("{hook} {}", reason.word()));
            assert!(hit("Out") || hit("In"), "no packet was dropped as {}", reason.word());
        }
    });
}

#[test]
fn i9_a_full_map_is_told_apart_and_keeps_its_rows() {
    lab::run("packets::i9_a_full_map_is_told_apart_and_keeps_its_rows", |lab| {
        let dataplane = lab.open();
        let max = u64::from(longshore_abi::names::GROUPS_MAX);
        let put = |group| MapOp::PutGroup(group, longshore_abi::GroupHeader::default());
        // Beside the last one, so that what comes after a failure is seen not to be tried.
        let mut ops: Vec<MapOp> = (1..=max + 1).map(put).collect();
        ops.push(MapOp::DelGroup(1));
        let error = dataplane.apply(&ops).unwrap_err();
        assert_eq!((error.index as u64, error.map, error.full), (max, "groups", true));
        assert!(error.to_string().contains("full"), "{error}");
        let rows = dataplane.rows().unwrap();
        assert_eq!(rows.groups.len() as u64, max);
        assert!(rows.groups.contains_key(&1));
    });
}

#[test]
fn rows_are_read_back_as_they_were_written() {
    lab::run("packets::rows_are_read_back_as_they_were_written", |lab| {
        let kernel = Kernel::new(lab);
        let mut runner =
            TestRunner::new(Runs { cases: 20, failure_persistence: None, ..Runs::default() });
        let result = runner.run(&generate::node(), |node| {
            kernel.load(&node.rows);
            let read = kernel.dataplane.rows().unwrap();
            let Model { endpoints, cidrs, groups, peers, ports, ranges, .. } = node.rows;
            let written =
                KernelRows { endpoints, cidrs, groups, peers, ports, ranges, ..read.clone() };
            assert_eq!(read, written);
            Ok(())
        });
        result.unwrap();
    });
}

/// Not a judgement, but printed: ns per packet of the paths.
#[test]
fn every_path_is_timed() {
    lab::run("packets::every_path_is_timed", |lab| {
        use longshore_abi::policy::{ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL, OPEN};
        use longshore_abi::{Addr, Endpoint, GroupHeader, Mask, PeerKey, PortKey};
        let kernel = Kernel::new(lab);
        let (a, b) = (generate::PODS[0], generate::PODS[1]);
        let row = |ifindex, flags| Endpoint {
            class: 1,
            stamp: 1,
            ingress: 7,
            egress: 7,
            ifindex,
            flags: LOCAL | OPEN | flags,
            ..Endpoint::default()
        };
        let mut bits = Mask::default();
        bits.bits[0] = 1;
        let time = |what: &str, flags: u32, tcp_flags: u8| {
            let mut model = Model::default();
            model.endpoints.insert(Addr::v4(a.0), row(a.1, flags & ISOLATED_EGRESS));
            model.endpoints.insert(Addr::v4(b.0), row(b.1, flags & ISOLATED_INGRESS));
            model.groups.insert(7, GroupHeader::default());
            model.peers.insert(PeerKey { group: 7, class: 1 }, bits);
            let key = PortKey { group: 7, port: 80_u16.to_be(), proto: 6, reserved: [0; 5] };
            model.ports.insert(key, bits);
            kernel.load(&model);
            let frame = Ip::tcp((a.0, 40_000), (b.0, 80), tcp_flags).at(a.1);
            let mut times: Vec<u128> = (0..5)
                .map(|_| {
                    let (code, _, time) = kernel.run(Hook::Out, &frame, 200_000);
                    assert_eq!(code, 7, "{what}");
                    time.as_nanos()
                })
                .collect();
            times.sort_unstable();
            println!("pod_out, {what}: {} ns (median of 5)", times[2]);
        };
        let both = ISOLATED_EGRESS | ISOLATED_INGRESS;
        time("no policy", 0, SYN);
        time("SYN, ingress policy", ISOLATED_INGRESS, SYN);
        time("SYN, both policies", both, SYN);
        time("established, both policies", both, 0x10);
    });
}
