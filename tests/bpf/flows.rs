//! Old rows of flows are taken out of the kernel's tables, young ones never (E.7).

use std::collections::BTreeMap;

use longshore_abi::track::{
    FLOW_ANY_REPLIED_NS, FLOW_ANY_UNREPLIED_NS, FLOW_CLOSING, FLOW_REPLIED, FLOW_TCP_CLOSING_NS,
    FLOW_TCP_SILENT_NS,
};
use longshore_abi::{Addr, FlowKey, FlowValue, IPPROTO_TCP, IPPROTO_UDP};

use crate::lab::{self, Lab};
use crate::packets::table;

/// The clock is an argument: any moment will do.
const NOW_NS: u64 = 1 << 50;

fn key(proto: u8, port: u16) -> FlowKey {
    FlowKey {
        a: Addr::v4([10, 0, 0, 1]),
        b: Addr::v4([10, 0, 0, 2]),
        a_port: port.to_be(),
        b_port: 53_u16.to_be(),
        proto,
        reserved: [0; 3],
    }
}

fn aged(age_ns: u64, flags: u32) -> FlowValue {
    FlowValue { stamp_a: 1, stamp_b: 2, seen_ns: NOW_NS - age_ns, flags, reserved: 0 }
}

fn put(lab: &Lab, key: &FlowKey, value: &FlowValue) {
    let name = if key.proto == IPPROTO_TCP { "maps/flows_tcp" } else { "maps/flows_any" };
    table(&lab.pin(name)).put(key, value).unwrap();
}

#[test]
fn e7_old_flows_go_and_young_ones_stay() {
    lab::run("flows::e7_old_flows_go_and_young_ones_stay", |lab| {
        let dataplane = lab.open();
        let mut stay = BTreeMap::new();
        let mut old = Vec::new();
        let mut port = 0;
        for (proto, flags, age_max) in [
            (IPPROTO_UDP, 0, FLOW_ANY_UNREPLIED_NS),
            (IPPROTO_UDP, FLOW_REPLIED, FLOW_ANY_REPLIED_NS),
            (IPPROTO_TCP, FLOW_REPLIED, FLOW_TCP_SILENT_NS),
            (IPPROTO_TCP, FLOW_REPLIED | FLOW_CLOSING, FLOW_TCP_CLOSING_NS),
        ] {
            // Many, so that a walk is of several batches' buckets.
            for _ in 0..300 {
                for (age_ns, stays) in [(0, true), (age_max, true), (age_max + 1, false)] {
                    port += 1;
                    let (key, value) = (key(proto, port), aged(age_ns, flags));
                    put(lab, &key, &value);
                    if stays {
                        stay.insert(key, value);
                    } else {
                        old.push(key);
                    }
                }
            }
        }
        let mut found = dataplane.old_flows(NOW_NS).unwrap();
        found.expired.sort();
        old.sort();
        assert_eq!(found.rows, stay.len() + old.len());
        assert_eq!(found.expired, old);
        assert_eq!(dataplane.remove_flows(&old, NOW_NS).unwrap(), old.len());
        assert_eq!(dataplane.flow_rows().unwrap(), stay);
        // Again is nothing.
        assert_eq!(dataplane.remove_flows(&old, NOW_NS).unwrap(), 0);
        assert!(dataplane.old_flows(NOW_NS).unwrap().expired.is_empty());
    });
}

#[test]
fn e7_a_flow_that_speaks_again_between_look_and_removal_stays() {
    lab::run("flows::e7_a_flow_that_speaks_again_between_look_and_removal_stays", |lab| {
        let dataplane = lab.open();
        for proto in [IPPROTO_UDP, IPPROTO_TCP] {
            let key = key(proto, 7);
            put(lab, &key, &aged(2 * FLOW_TCP_SILENT_NS, FLOW_REPLIED));
            let found = dataplane.old_flows(NOW_NS).unwrap();
            assert_eq!(found.expired, [key]);
            let young = aged(0, 0);
            put(lab, &key, &young);
            assert_eq!(dataplane.remove_flows(&found.expired, NOW_NS).unwrap(), 0);
            assert_eq!(dataplane.flow_rows().unwrap(), BTreeMap::from([(key, young)]));
            assert_eq!(dataplane.remove_flows(&[key], NOW_NS * 2).unwrap(), 1);
        }
    });
}
