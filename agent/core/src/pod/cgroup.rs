//! The pod's cgroup: where it is and what it limits (A140–A142, A146, A151, A158); and the one of all
//! pods together (A150).

use k8s_openapi::api::core::v1::PodSpec;

use super::action::CgroupPlan;
use super::qos::{self, Qos};
use crate::config::{KubeletConfig, NodeConfig};
use crate::model::{NodeView, PodUid, Quantity};

/// Path of the pod's cgroup for a class (A146).
pub fn path(node: &NodeView, uid: &PodUid, class: Qos) -> String {
    let below = match class {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    let parent = &node.kubepods_cgroup;
    if !node.systemd_cgroups {
        let middle = below.map(|class| format!("/{class}")).unwrap_or_default();
        return format!("{parent}{middle}/pod{uid}");
    }
    // A slice's name repeats its parents; dashes of the UID would be more parents.
    let base = parent.rsplit('/').next().unwrap_or_default().trim_end_matches(".slice");
    let uid = uid.as_str().replace('-', "_");
    match below {
        None => format!("{parent}/{base}-pod{uid}.slice"),
        Some(class) => format!("{parent}/{base}-{class}.slice/{base}-{class}-pod{uid}.slice"),
    }
}

/// `cgroup_parent` of the sandbox: the path, or for systemd the slice's name.
pub fn parent_of_sandbox(node: &NodeView, path: &str) -> String {
    match node.systemd_cgroups {
        true => path.rsplit('/').next().unwrap_or_default().to_owned(),
        false => path.to_owned(),
    }
}

pub fn plan(node: &NodeView, config: &KubeletConfig, uid: &PodUid, spec: &PodSpec) -> CgroupPlan {
    let class = qos::class(spec);
    let overhead = |resource: &str| {
        let list = spec.overhead.as_ref();
        let amount = list.and_then(|list| list.get(resource));
        amount.and_then(|q| Quantity::from_api(q).ok()).map_or(0, |q| q.milli.max(0))
    };
    let plus = |quantity: Quantity, resource: &str| {
        Quantity::from_milli(quantity.milli.saturating_add(overhead(resource)))
    };
    let shares = match class {
        Qos::BestEffort => 2,
        _ => qos::cpu_shares(plus(qos::pod_request(spec, "cpu"), "cpu")),
    };
    let period = config.cpu_cfs_quota_period_us;
    let cpu_limit = qos::pod_limit(spec, "cpu").filter(|_| config.cpu_cfs_quota);
    let memory_limit = qos::pod_limit(spec, "memory");
    CgroupPlan {
        path: path(node, uid, class),
        cpu_shares: shares,
        cpu_quota_us: cpu_limit.map(|limit| qos::cpu_quota_us(plus(limit, "cpu"), period)),
        cpu_period_us: period,
        memory_bytes: memory_limit.map(|limit| plus(limit, "memory").units()),
        pids: config.pod_pids_limit,
    }
}

/// The cgroup of all pods: what the node has without `systemReserved` and `kubeReserved` (A150). What
/// `evictionHard` keeps free is theirs too, until they are evicted for it.
///
/// # Errors
/// More is reserved than there is: no pod could run.
pub fn of_all_pods(node: &NodeView, config: &NodeConfig) -> Result<CgroupPlan, String> {
    let left = |name: &str, whole: Quantity| {
        let reserved = config.reserved(name);
        if reserved.milli > 0 && reserved.milli >= whole.milli {
            return Err(format!(
                "systemReserved and kubeReserved keep {reserved} of {name}, and this node has \
                 {whole}: no pod could run; reserve less"
            ));
        }
        let kept = if config.enforce_pods { reserved.milli } else { 0 };
        Ok(Quantity::from_milli(whole.milli - kept))
    };
    let cpu = left("cpu", Quantity::from_milli(node.cpu_milli.into()))?;
    let memory = left("memory", Quantity::from_units(node.memory_bytes))?;
    let pids = node.pids_max.map(|max| left("pid", Quantity::from_units(max))).transpose()?;
    Ok(CgroupPlan {
        path: node.kubepods_cgroup.clone(),
        cpu_shares: qos::cpu_shares(cpu),
        memory_bytes: Some(memory.units()),
        pids: pids.map(Quantity::units),
        ..CgroupPlan::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing;

    #[test]
    fn a146_paths_for_both_drivers() {
        let mut node = testing::node();
        let uid = PodUid::new("a-b");
        let check = |node: &NodeView, class, expect: &str| {
            assert_eq!(path(node, &uid, class), expect);
        };
        check(&node, Qos::Guaranteed, "/kubepods/poda-b");
        check(&node, Qos::Burstable, "/kubepods/burstable/poda-b");
        check(&node, Qos::BestEffort, "/kubepods/besteffort/poda-b");
        node.systemd_cgroups = true;
        node.kubepods_cgroup = "/kubepods.slice".into();
        check(&node, Qos::Guaranteed, "/kubepods.slice/kubepods-poda_b.slice");
        let burstable = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice";
        check(&node, Qos::Burstable, burstable);
        assert_eq!(parent_of_sandbox(&node, burstable), "kubepods-burstable-poda_b.slice");
    }

    #[test]
    fn a150_all_pods_get_what_is_not_reserved() {
        let node = testing::node();
        let all = |text: &str| -> Result<_, String> {
            let (config, _) = crate::config::parse(text);
            let plan = of_all_pods(&node, &config.node)?;
            Ok((plan.cpu_shares, plan.memory_bytes.unwrap_or(0) >> 20, plan.pids.unwrap_or(0)))
        };
        let whole = Ok((4096, 8192, 4_194_304));
        assert_eq!(all(""), whole);
        let reserved = "systemReserved: {cpu: 500m, memory: 1Gi, pid: 304}\n\
                        kubeReserved: {cpu: 500m, memory: 1Gi}\n\
                        evictionHard: {memory.available: 500Mi}\n";
        assert_eq!(all(reserved), Ok((3072, 6144, 4_194_000)));
        assert_eq!(all(&format!("{reserved}enforceNodeAllocatable: [none]\n")), whole);
        let error = all("systemReserved: {memory: 5Gi}\nkubeReserved: {memory: 3Gi}\n");
        assert!(error.as_ref().is_err_and(|text| text.contains("memory")), "{error:?}");
    }

    #[test]
    fn a141_a142_pod_limits_need_a_limit_in_every_container() {
        let plan_of = |spec: &str, config: &KubeletConfig| {
            let pod = testing::pod(spec);
            plan(&testing::node(), config, &PodUid::new("u"), pod.spec.as_ref().unwrap())
        };
        let config = KubeletConfig { pod_pids_limit: Some(50), ..KubeletConfig::default() };
        let two = "{containers: [{name: a, resources: {limits: {cpu: 500m, memory: 64Mi}}},
                                 {name: b, resources: {limits: {cpu: 1, memory: 64Mi}}}]}";
        let plan = plan_of(two, &config);
        assert_eq!(plan.cpu_shares, 1536);
        assert_eq!(plan.cpu_quota_us, Some(150_000));
        assert_eq!(plan.memory_bytes, Some(128 << 20));
        assert_eq!(plan.pids, Some(50));
        let open = plan_of(
            "{overhead: {cpu: 100m}, containers: [{name: a, resources: {limits: {cpu: 500m}}}, {name: b}]}",
            &config,
        );
        assert_eq!((open.cpu_shares, open.cpu_quota_us, open.memory_bytes), (614, None, None));
        let off = KubeletConfig { cpu_cfs_quota: false, ..config };
        assert_eq!(plan_of(two, &off).cpu_quota_us, None);
    }
}
