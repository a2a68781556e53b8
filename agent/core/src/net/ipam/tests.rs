//! Addresses: one owner each, none before its cool-down, the same after a restart.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Time = Time(1_000_000);

fn range(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn uid() -> PodUid {
    PodUid::new("uid")
}

fn interface(owner: &str, ip: &str) -> Attachment {
    Attachment {
        ip: ip.parse().unwrap(),
        ifindex: 7,
        ifname: format!("ls{owner}"),
        mac: [2; 6],
        sandbox_id: owner.to_owned(),
    }
}

/// Restored from `state` with the interfaces (owner, address).
fn restored(state: Option<&Value>, live: &[(&str, &str)]) -> Restored {
    let uid = uid();
    let live: Vec<Attachment> = live.iter().map(|(owner, ip)| interface(owner, ip)).collect();
    Ipam::restore(range("10.0.0.0/28"), state, live.iter().map(|a| (&uid, a)), NOW)
}

#[test]
fn the_network_the_gateway_and_the_broadcast_are_nobodys() {
    let mut ipam = Ipam::new(range("10.0.0.0/29"));
    let mut got = Vec::new();
    while let Ok(ip) = ipam.allocate(&got.len().to_string(), &uid(), NOW) {
        got.push(ip.octets()[3]);
    }
    assert_eq!(got, [2, 3, 4, 5, 6]);
    for small in ["10.0.0.0/31", "10.0.0.0/32", "255.255.255.255/32"] {
        let full = Ipam::new(range(small)).allocate("a", &uid(), NOW).unwrap_err();
        assert_eq!((full.in_use, full.next_free_at), (0, None));
    }
    assert!(Ipam::new(range("0.0.0.0/0")).allocate("a", &uid(), NOW).is_ok());
}

#[test]
fn an_owner_keeps_its_address_and_may_leave_twice() {
    let mut ipam = Ipam::new(range("10.0.0.0/24"));
    let first = ipam.allocate("a", &uid(), NOW).unwrap();
    assert_eq!(ipam.allocate("a", &uid(), NOW.plus_s(5)), Ok(first));
    assert_eq!(ipam.release("a", NOW), Some(first));
    assert_eq!(ipam.release("a", NOW.plus_s(50)), None);
    assert_ne!(ipam.allocate("a", &uid(), NOW), Ok(first));
}

#[test]
fn e6_a_full_range_respects_the_cool_down_and_says_when_it_ends() {
    let mut ipam = Ipam::new(range("10.0.0.0/30"));
    let ip = ipam.allocate("a", &uid(), NOW).unwrap();
    assert_eq!(ipam.allocate("b", &uid(), NOW).unwrap_err().next_free_at, None);
    ipam.release("a", NOW);
    let due = NOW.plus_ms(COOL_DOWN_MS);
    let full = ipam.allocate("b", &uid(), due.plus_ms(-1)).unwrap_err();
    assert_eq!((full.in_use, full.cooling, full.next_free_at), (0, 1, Some(due)));
    assert!(full.to_string().contains("the first is free at 1970-01-01T00:17:40.000Z"), "{full}");
    assert_eq!(ipam.allocate("b", &uid(), due), Ok(ip));
}

#[test]
fn f19_gc_releases_what_no_sandbox_owns() {
    let mut ipam = Ipam::new(range("10.0.0.0/24"));
    for owner in ["a", "b", "c"] {
        ipam.allocate(owner, &uid(), NOW).unwrap();
    }
    let gone = ipam.keep_only(&["b".to_owned(), "x".to_owned()].into(), NOW);
    assert_eq!(gone.iter().map(|(owner, _)| owner.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(ipam.leases().keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(ipam.keep_only(&["b".to_owned()].into(), NOW), []);
}

#[test]
fn unusable_state_is_reported_and_rebuilt_from_the_interfaces() {
    let mut good = Ipam::new(range("10.0.0.0/28"));
    good.allocate("a", &uid(), NOW).unwrap();
    good.allocate("b", &uid(), NOW).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut state = good.to_state();
        *state.pointer_mut(pointer).unwrap() = value;
        state
    };
    for (state, text) in [
        (json!(null), "version None"),
        (json!({"version": 2}), "version Some(2)"),
        (json!({"version": 1, "leases": 3}), "invalid type"),
        (with("/range", json!("10.9.0.0/28")), "of pod CIDR 10.9.0.0/28"),
        (with("/leases/a/ip", json!("10.0.0.3")), "10.0.0.3 is in it twice"),
        (with("/leases/a/ip", json!("10.0.0.1")), "10.0.0.1 is not a pod address"),
    ] {
        let Restored { mut ipam, problems } = restored(Some(&state), &[("b", "10.0.0.4")]);
        assert!(problems.len() == 1 && problems[0].contains(text), "{problems:?}");
        assert_eq!(ipam.allocate("b", &uid(), NOW).unwrap().octets()[3], 4);
        // Nobody knows when .2 and .3 were released: they wait, the ones above are taken first.
        assert_eq!(ipam.allocate("c", &uid(), NOW).unwrap().octets()[3], 5);
    }
}

#[test]
fn f33_interfaces_win_over_the_stored_state() {
    let mut ipam = Ipam::new(range("10.0.0.0/28"));
    ipam.allocate("a", &uid(), NOW).unwrap();
    // The address of `a` is on the interface of `b`, and `c` was never written down.
    let live = [("b", "10.0.0.2"), ("c", "10.0.0.9"), ("d", "192.0.2.1")];
    let Restored { mut ipam, problems } = restored(Some(&ipam.to_state()), &live);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(ipam.leases().keys().collect::<Vec<_>>(), ["b", "c"]);
    // Released, .9 waits like any other, though its turn never came.
    ipam.release("c", NOW);
    let mut given = Vec::new();
    while let Ok(ip) = ipam.allocate(&format!("n{}", given.len()), &uid(), NOW) {
        given.push(ip.octets()[3]);
    }
    assert_eq!(given, [3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14]);
}

#[test]
fn f32_a_clock_that_went_back_does_not_hold_addresses() {
    let mut ipam = Ipam::new(range("10.0.0.0/28"));
    ipam.allocate("a", &uid(), NOW).unwrap();
    ipam.release("a", NOW.plus_s(1_000_000));
    let Restored { ipam, problems } = restored(Some(&ipam.to_state()), &[]);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(ipam.released.first().map(|(at, _)| *at), Some(NOW));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8),
    Release(u8),
    KeepOnly(BTreeSet<u8>),
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..20).prop_map(Step::Allocate),
        3 => (0u8..20).prop_map(Step::Release),
        1 => proptest::collection::btree_set(0u8..20, 0..20).prop_map(Step::KeepOnly),
        2 => (0i64..50_000).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn i3_one_owner_per_address_none_before_its_cool_down_and_restarts_change_nothing(
        steps in proptest::collection::vec(step(), 1..200),
        live in proptest::collection::btree_set(2u8..14, 0..4),
    ) {
        let live: Vec<(String, String)> =
            live.iter().map(|n| (format!("live-{n}"), format!("10.0.0.{n}"))).collect();
        let live: Vec<(&str, &str)> =
            live.iter().map(|(owner, ip)| (owner.as_str(), ip.as_str())).collect();
        let mut ipam = restored(None, &live).ipam;
        let mut now = NOW;
        let mut freed: BTreeMap<Ipv4Addr, Time> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now = now.plus_ms(ms),
                Step::Restart => {
                    let state = ipam.to_state();
                    let restored = Ipam::restore(ipam.range(), Some(&state), [], now);
                    prop_assert_eq!(restored, Restored { ipam: ipam.clone(), problems: vec![] });
                }
                Step::Release(n) => {
                    freed.extend(ipam.release(&n.to_string(), now).map(|ip| (ip, now)));
                }
                Step::KeepOnly(owners) => {
                    let owners = owners.iter().map(u8::to_string).collect();
                    let gone = ipam.keep_only(&owners, now);
                    freed.extend(gone.into_iter().map(|(_, ip)| (ip, now)));
                }
                Step::Allocate(n) => {
                    let owner = n.to_string();
                    let had = ipam.leases().get(&owner).map(|lease| lease.ip);
                    match ipam.allocate(&owner, &uid(), now) {
                        Ok(ip) => {
                            prop_assert!(had.is_none_or(|had| had == ip));
                            if had.is_none() && let Some(at) = freed.get(&ip) {
                                prop_assert!(now.since_ms(*at) >= COOL_DOWN_MS);
                            }
                        }
                        Err(full) => {
                            prop_assert_eq!(full.in_use + full.cooling, 13);
                            prop_assert!(full.next_free_at.is_none_or(|at| at > now));
                        }
                    }
                }
            }
            let addresses: BTreeSet<_> = ipam.leases().values().map(|lease| lease.ip).collect();
            prop_assert_eq!(addresses.len(), ipam.leases().len());
            prop_assert_eq!(&addresses, &ipam.taken);
            let cooling: BTreeSet<_> = ipam.released.iter().map(|(_, ip)| *ip).collect();
            prop_assert_eq!(&cooling, &ipam.cooling);
            prop_assert!(ipam.released.iter().all(|(_, ip)| !ipam.taken.contains(ip)));
        }
    }
}
