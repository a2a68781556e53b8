//! How a Deployment gets from the replicas it has to those it should have.
//!
//! The arithmetic of the Deployment controller (maxSurge rounds up, maxUnavailable down) on plain
//! facts; making and deleting pods is the caller's.

use k8s_openapi::api::apps::v1::DeploymentSpec;

use super::validate::share_of;
use crate::model::ObjectKey;

/// One replica that is neither being deleted nor ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    pub key: ObjectKey,
    /// Has the wanted template.
    pub wanted: bool,
    pub ready: bool,
    /// Ready for minReadySeconds.
    pub available: bool,
    /// Larger is younger.
    pub order: u64,
}

/// What the Deployment asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strategy {
    pub replicas: usize,
    /// Replicas above `replicas` during a roll-out.
    pub surge: usize,
    /// Replicas that may be missing during a roll-out.
    pub unavailable: usize,
    pub recreate: bool,
}

impl Strategy {
    pub fn of(spec: &DeploymentSpec) -> Self {
        let count = |number: i64| usize::try_from(number).unwrap_or(0);
        let replicas = i64::from(spec.replicas.unwrap_or(1));
        let strategy = spec.strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        // A percentage of 100 times the replicas, so that surge can round up and the other down.
        let share = |value: Option<&_>| match value {
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(n)) => {
                i64::from(*n) * 100
            }
            Some(text) => share_of(text, replicas * 100).unwrap_or(0),
            None => 25 * replicas,
        };
        let surge = (share(rolling.and_then(|r| r.max_surge.as_ref())) + 99) / 100;
        let mut unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref())) / 100;
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            replicas: count(replicas),
            surge: count(surge),
            unavailable: count(unavailable.min(replicas)),
            recreate: strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate"),
        }
    }
}

/// One step of a roll-out; steps are safe in any order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    pub create: usize,
    pub delete: Vec<ObjectKey>,
}

/// Decides the next step. `others` are replicas of another template that still exist in any form
/// (they matter for Recreate).
pub fn step(strategy: Strategy, replicas: &[Replica], others: bool) -> Step {
    let (wanted, old): (Vec<&Replica>, Vec<&Replica>) =
        replicas.iter().partition(|replica| replica.wanted);
    if strategy.recreate {
        if !old.is_empty() {
            return Step {
                create: 0,
                delete: old.iter().map(|replica| replica.key.clone()).collect(),
            };
        }
        if others {
            return Step::default();
        }
    }
    let mut delete = surplus(&wanted, wanted.len().saturating_sub(strategy.replicas));
    let most = strategy.replicas + if strategy.recreate { 0 } else { strategy.surge };
    let missing = strategy.replicas.saturating_sub(wanted.len());
    let create = missing.min(most.saturating_sub(replicas.len()));
    delete.extend(retire(strategy, &wanted, &old));
    Step { create, delete }
}

/// Old replicas that may go now without falling below the minimum.
fn retire(strategy: Strategy, wanted: &[&Replica], old: &[&Replica]) -> Vec<ObjectKey> {
    let least = strategy.replicas.saturating_sub(strategy.unavailable);
    let kept = wanted.len().min(strategy.replicas);
    let available_wanted = wanted.iter().filter(|replica| replica.available).count().min(kept);
    let mut available = available_wanted + old.iter().filter(|replica| replica.available).count();
    let mut gone = Vec::new();
    for replica in by_dispensability(old) {
        if !replica.available {
            gone.push(replica.key.clone());
        } else if available > least {
            available -= 1;
            gone.push(replica.key.clone());
        }
    }
    gone
}

fn surplus(replicas: &[&Replica], count: usize) -> Vec<ObjectKey> {
    by_dispensability(replicas).into_iter().take(count).map(|replica| replica.key.clone()).collect()
}

/// Not ready first, then not yet available, then the youngest.
fn by_dispensability<'a>(replicas: &[&'a Replica]) -> Vec<&'a Replica> {
    let mut sorted = replicas.to_vec();
    sorted.sort_by_key(|replica| {
        (replica.ready, replica.available, std::cmp::Reverse(replica.order))
    });
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn strategy(replicas: i64, surge: &str, unavailable: &str) -> Strategy {
        let value = |text: &str| match text.parse::<i64>() {
            Ok(number) => serde_json::json!(number),
            Err(_) => serde_json::json!(text),
        };
        Strategy::of(
            &serde_json::from_value(serde_json::json!({"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"rollingUpdate": {"maxSurge": value(surge), "maxUnavailable": value(unavailable)}}}))
            .unwrap(),
        )
    }

    #[test]
    fn deployment_surge_rounds_up_and_unavailable_down() {
        for (replicas, surge, unavailable, want) in [
            (4, "25%", "25%", (1, 1)),
            (3, "25%", "25%", (1, 0)),
            (10, "30%", "1", (3, 1)),
            (1, "0", "25%", (0, 1)),
            (2, "2", "100%", (2, 2)),
            (1, "25%", "25%", (1, 0)),
        ] {
            let got = strategy(replicas, surge, unavailable);
            assert_eq!((got.surge, got.unavailable), want, "{replicas} {surge} {unavailable}");
        }
    }

    proptest! {
        /// A roll-out simulated pod by pod: never fewer available than allowed, never more pods than
        /// allowed, and it ends.
        #[test]
        fn deployment_rollout_never_falls_below_the_minimum(
            replicas in 1usize..8, surge in 0usize..4, unavailable in 0usize..4, old in 0usize..8, seed in any::<u64>()
        ) {
            let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
            let strategy = Strategy { replicas, surge, unavailable, recreate: false };
            let mut pods: Vec<Replica> = (0..old.min(replicas)).map(|n| Replica {
                key: ObjectKey::new("n", format!("old{n}")), wanted: false, ready: true, available: true, order: n as u64,
            }).collect();
            let mut reached = pods.len() >= replicas - unavailable;
            let mut order = 100;
            let mut random = seed;
            for _ in 0..200 {
                let next = step(strategy, &pods, false);
                pods.retain(|pod| !next.delete.contains(&pod.key));
                for _ in 0..next.create {
                    order += 1;
                    pods.push(Replica { key: ObjectKey::new("n", format!("new{order}")), wanted: true, ready: false, available: false, order });
                }
                let available = pods.iter().filter(|pod| pod.available).count();
                prop_assert!(!reached || available + unavailable >= replicas, "{pods:?}");
                reached |= available + unavailable >= replicas;
                prop_assert!(pods.len() <= replicas + surge);
                if next == Step::default() {
                    // Nothing to do: one waiting pod becomes ready.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let waiting: Vec<usize> = (0..pods.len()).filter(|i| !pods[*i].available).collect();
                    if waiting.is_empty() { break; }
                    let chosen = waiting[(random >> 33) as usize % waiting.len()];
                    pods[chosen].ready = true;
                    pods[chosen].available = true;
                }
            }
            prop_assert_eq!(pods.len(), replicas);
            prop_assert!(pods.iter().all(|pod| pod.wanted && pod.available));
        }
    }

    #[test]
    fn deployment_recreate_waits_for_the_old_to_be_gone() {
        let strategy = Strategy { replicas: 2, surge: 0, unavailable: 0, recreate: true };
        let old = Replica {
            key: ObjectKey::new("n", "o"),
            wanted: false,
            ready: true,
            available: true,
            order: 0,
        };
        assert_eq!(
            step(strategy, std::slice::from_ref(&old), true),
            Step { create: 0, delete: vec![old.key] }
        );
        assert_eq!(step(strategy, &[], true), Step::default());
        assert_eq!(step(strategy, &[], false), Step { create: 2, delete: vec![] });
    }

    #[test]
    fn deployment_scale_down_takes_the_unready_then_the_youngest() {
        let replica = |name: &str, ready, order| Replica {
            key: ObjectKey::new("n", name),
            wanted: true,
            ready,
            available: ready,
            order,
        };
        let all = [replica("a", true, 1), replica("b", false, 2), replica("c", true, 3)];
        let strategy = |replicas| Strategy { replicas, surge: 1, unavailable: 0, recreate: false };
        let names =
            |step: Step| step.delete.iter().map(|key| key.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(step(strategy(2), &all, false)), ["b"]);
        assert_eq!(names(step(strategy(1), &all, false)), ["b", "c"]);
    }
}
