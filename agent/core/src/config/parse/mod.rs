//! Text of a KubeletConfiguration → [`KubeletConfig`] and what is wrong with it.
//!
//! A field that cannot be read keeps its default and is an error: the shell does not start on one.

mod eviction;
mod node;
mod reader;
mod server;

use serde_json::Value;

use super::{CgroupDriver, KubeletConfig};
use crate::model::Problem;
use reader::Reader;

/// Reads `text` (YAML or JSON).
pub fn parse(text: &str) -> (KubeletConfig, Vec<Problem>) {
    let mut reader = Reader::empty();
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => reader.fields = fields.into_iter().collect(),
        Ok(Value::Null) => {}
        Ok(_) => reader.error("", "is not a mapping: write a KubeletConfiguration".into()),
        Err(error) => reader.error("", format!("is not YAML: {error}")),
    }
    let config = reader.config();
    reader.rest();
    (config, reader.problems)
}

impl Reader {
    fn config(&mut self) -> KubeletConfig {
        let mut config = KubeletConfig::default();
        self.header();
        self.word("containerRuntimeEndpoint", &mut config.container_runtime_endpoint);
        self.word("podLogsDir", &mut config.pod_logs_dir);
        self.text("cgroupRoot", &mut config.cgroup_root);
        self.text("clusterDomain", &mut config.cluster_domain);
        self.text("resolvConf", &mut config.resolv_conf);
        self.flag("cpuCFSQuota", &mut config.cpu_cfs_quota);
        self.flag("failCgroupV1", &mut config.fail_cgroup_v1);
        self.flag("failSwapOn", &mut config.fail_swap_on);
        self.flag("seccompDefault", &mut config.seccomp_default);
        self.flag("singleProcessOOMKill", &mut config.single_process_oom_kill);
        self.cgroup_driver(&mut config);
        self.cluster_dns(&mut config);
        self.limits(&mut config);
        self.image_pulls(&mut config);
        let mut names = Vec::new();
        self.texts("allowedUnsafeSysctls", &mut names);
        config.allowed_unsafe_sysctls = names;
        self.node(&mut config.node);
        self.eviction(&mut config.node);
        self.server(&mut config.node.server);
        config
    }

    fn header(&mut self) {
        for (field, wanted) in
            [("kind", "KubeletConfiguration"), ("apiVersion", "kubelet.config.k8s.io/v1beta1")]
        {
            let mut found = wanted.to_owned();
            self.text(field, &mut found);
            if found != wanted {
                self.error(field, format!("is {found:?}: only {wanted:?} is read"));
            }
        }
    }

    fn cgroup_driver(&mut self, config: &mut KubeletConfig) {
        let mut driver = "cgroupfs".to_owned();
        self.text("cgroupDriver", &mut driver);
        match driver.as_str() {
            "cgroupfs" => config.cgroup_driver = CgroupDriver::Cgroupfs,
            "systemd" => config.cgroup_driver = CgroupDriver::Systemd,
            _ => self.error("cgroupDriver", format!("is {driver:?}: use cgroupfs or systemd")),
        }
    }

    fn cluster_dns(&mut self, config: &mut KubeletConfig) {
        let mut servers = Vec::new();
        self.texts("clusterDNS", &mut servers);
        for (i, server) in servers.iter().enumerate() {
            match server.parse() {
                Ok(ip) => config.cluster_dns.push(ip),
                Err(_) => {
                    self.error(&format!("clusterDNS[{i}]"), format!("{server:?} is not an address"))
                }
            }
        }
    }

    fn limits(&mut self, config: &mut KubeletConfig) {
        let mut pids = -1;
        self.number("podPidsLimit", -1..=i64::MAX, &mut pids);
        config.pod_pids_limit = (pids > 0).then_some(pids);
        let mut period = 100;
        // Microseconds matter here: the range is 1 ms to 1 s.
        self.millis("cpuCFSQuotaPeriod", 1..=1000, &mut period);
        config.cpu_cfs_quota_period_us = period.unsigned_abs() * 1000;
        self.nested("crashLoopBackOff", |inner| {
            inner.millis(
                "maxContainerRestartPeriod",
                1000..=300_000,
                &mut config.max_container_restart_period_ms,
            );
        });
    }

    fn image_pulls(&mut self, config: &mut KubeletConfig) {
        let mut parallel = 0;
        self.number("maxParallelImagePulls", 1..=i64::from(i32::MAX), &mut parallel);
        let mut serialize = parallel < 2;
        self.flag("serializeImagePulls", &mut serialize);
        if serialize && parallel > 1 {
            self.error(
                "serializeImagePulls",
                format!("is true while maxParallelImagePulls is {parallel}: set one of them"),
            );
        }
        config.max_parallel_image_pulls = match (serialize, parallel) {
            (true, _) => Some(1),
            (false, 0) => None,
            (false, n) => u32::try_from(n).ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthorizationMode, Signal, Threshold, TlsVersion};
    use crate::model::Severity;

    fn check(text: &str, expect: &[(&str, Severity)]) -> KubeletConfig {
        let (config, problems) = parse(text);
        let found: Vec<_> = problems.iter().map(|p| (p.field.as_str(), p.severity)).collect();
        assert_eq!(found, expect, "{text}\n{problems:?}");
        config
    }

    #[test]
    fn a51_a141_a149_known_fields_are_read_and_the_rest_keeps_the_defaults() {
        assert_eq!(check("", &[]), KubeletConfig::default());
        let config = check(
            "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n\
             clusterDNS: [10.96.0.10]\ncgroupDriver: systemd\nmaxParallelImagePulls: 4\n\
             podPidsLimit: 100\ncpuCFSQuotaPeriod: 10ms\nfailCgroupV1: false\n\
             crashLoopBackOff: {maxContainerRestartPeriod: 30s}\n",
            &[],
        );
        assert_eq!(config.cluster_dns, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
        assert_eq!(config.max_parallel_image_pulls, Some(4));
        assert_eq!(config.pod_pids_limit, Some(100));
        assert_eq!(config.cpu_cfs_quota_period_us, 10_000);
        assert_eq!(config.max_container_restart_period_ms, 30_000);
        assert!(!config.fail_cgroup_v1);
    }

    #[test]
    fn f65_what_is_not_read_is_named_and_isolation_is_never_dropped() {
        check("noSuchField: 1\n", &[("noSuchField", Severity::Warning)]);
        check("runtimeRequestTimeout: 1m\n", &[("runtimeRequestTimeout", Severity::Warning)]);
        check("protectKernelDefaults: true\n", &[("protectKernelDefaults", Severity::Error)]);
        check("protectKernelDefaults: false\ncpuManagerPolicy: none\n", &[]);
        check("cpuManagerPolicy: static\n", &[("cpuManagerPolicy", Severity::Error)]);
        check("enableDebuggingHandlers: true\n", &[]);
        for text in [
            "enableDebuggingHandlers: false\n",
            "imagePullCredentialsVerificationPolicy: AlwaysVerify\n",
        ] {
            check(text, &[(text.split(':').next().unwrap(), Severity::Error)]);
        }
        check(
            "crashLoopBackOff: {maxContainerRestartPeriod: 1h, x: 1}\n",
            &[
                ("crashLoopBackOff.maxContainerRestartPeriod", Severity::Error),
                ("crashLoopBackOff.x", Severity::Warning),
            ],
        );
        check("podPidsLimit: many\n", &[("podPidsLimit", Severity::Error)]);
        check("kind: Pod\n", &[("kind", Severity::Error)]);
        check("[1, 2]\n", &[("", Severity::Error)]);
        check("a: [\n", &[("", Severity::Error)]);
        check("clusterDNS: [x]\n", &[("clusterDNS[0]", Severity::Error)]);
        check(
            "serializeImagePulls: true\nmaxParallelImagePulls: 3\n",
            &[("serializeImagePulls", Severity::Error)],
        );
    }

    #[test]
    fn a5_a6_a7_a12_a13_a14_a150_the_node_is_configured() {
        let node = check(
            "registerNode: false\nregisterWithTaints: [{key: a, effect: NoSchedule}]\n\
             providerID: cloud://1\nmaxPods: 20\npodsPerCore: 5\npodCIDR: 10.1.2.3/24\n\
             systemReserved: {cpu: 500m, memory: 1Gi}\nkubeReserved: {pid: 100}\n\
             nodeStatusUpdateFrequency: 5s\nnodeLeaseDurationSeconds: 60\n\
             nodeStatusMaxImages: -1\nstaticPodPath: /etc/kubernetes/manifests\n\
             cgroupsPerQOS: true\nenforceNodeAllocatable: [none]\n",
            &[],
        )
        .node;
        assert!(!node.register);
        // An empty list is not an absent one (A150).
        for (text, enforced) in [
            ("", true),
            ("enforceNodeAllocatable: [pods]\n", true),
            ("enforceNodeAllocatable: [none]\n", false),
            ("enforceNodeAllocatable: []\n", false),
        ] {
            assert_eq!(check(text, &[]).node.enforce_pods, enforced, "{text}");
        }
        assert_eq!((node.taints.len(), node.provider_id.as_str()), (1, "cloud://1"));
        assert_eq!((node.max_pods, node.pods_per_core), (20, 5));
        assert_eq!(node.pod_cidr, Some("10.1.2.0/24".parse().unwrap()));
        assert_eq!(node.system_reserved["cpu"].milli, 500);
        assert_eq!(node.kube_reserved["pid"].units(), 100);
        // A report frequency that is not set follows the update's.
        assert_eq!(
            (node.status_update_frequency_ms, node.status_report_frequency_ms),
            (5000, 5000)
        );
        assert_eq!((node.lease_duration_s, node.status_max_images), (60, None));
        assert_eq!(node.static_pod_path, "/etc/kubernetes/manifests");
        // What tools print as defaults asks for nothing.
        let printed = "maxPods: 0\nport: 0\nsyncFrequency: 0s\nshutdownGracePeriod: 0s\n\
             containerRuntimeEndpoint: \"\"\nnodeStatusReportFrequency: 0s\n\
             authentication: {webhook: {cacheTTL: 0s}}\ncrashLoopBackOff: {}\n";
        assert_eq!(check(printed, &[]), KubeletConfig::default());
    }

    #[test]
    fn a160_thresholds_replace_the_defaults_or_are_merged() {
        let hard =
            |text: &str| check(text, &[("evictionHard", Severity::Warning)]).node.eviction_hard;
        let one = hard("evictionHard: {memory.available: 200Mi}\n");
        assert_eq!(one, [(Signal::MemoryAvailable, Threshold::Units(200 << 20))].into());
        let merged = hard(
            "mergeDefaultEvictionSettings: true\n\
             evictionHard: {nodefs.available: 7.5%, imagefs.available: 0%}\n",
        );
        assert_eq!(merged[&Signal::NodefsAvailable], Threshold::Share(75_000));
        assert_eq!(merged[&Signal::MemoryAvailable], Threshold::Units(100 << 20));
        assert!(!merged.contains_key(&Signal::ImagefsAvailable));
        for bad in ["nodefs.available: 101%", "memory.available: lots", "memory.available: -1"] {
            let (_, problems) = parse(&format!("evictionHard: {{{bad}}}\n"));
            assert_eq!(problems.last().map(|p| p.severity), Some(Severity::Error), "{bad}");
        }
    }

    #[test]
    fn a178_a179_a180_the_server_is_configured_and_closed_by_default() {
        let server = check("", &[]).node.server;
        assert!(!server.authentication.anonymous && server.authentication.webhook);
        assert_eq!(server.authorization.mode, AuthorizationMode::Webhook);
        let server = check(
            "address: 127.0.0.1\nport: 10251\nhealthzPort: 0\ntlsCertFile: /c\n\
             tlsPrivateKeyFile: /k\ntlsMinVersion: VersionTLS13\n\
             tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n\
             authentication: {x509: {clientCAFile: /ca}, webhook: {cacheTTL: 5s}}\n\
             authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 1m}}\n",
            &[],
        )
        .node
        .server;
        assert_eq!((server.port, server.healthz_port), (10251, None));
        assert_eq!(server.authentication.client_ca_file, "/ca");
        assert_eq!(server.authentication.webhook_cache_ttl_ms, 5000);
        assert_eq!(server.authorization.authorized_ttl_ms, 60_000);
        assert_eq!(server.tls_min_version, TlsVersion::Tls13);
        check(
            "authorization: {mode: AlwaysAllow}\nauthentication: {anonymous: {enabled: true}}\n",
            &[
                ("authentication.anonymous.enabled", Severity::Warning),
                ("authorization.mode", Severity::Warning),
            ],
        );
        check("authorization: {mode: RBAC}\n", &[("authorization.mode", Severity::Error)]);
        check("tlsCertFile: /c\n", &[("tlsCertFile", Severity::Error)]);
        check("readOnlyPort: 10255\n", &[("readOnlyPort", Severity::Warning)]);
        check("address: here\n", &[("address", Severity::Error)]);
        check(
            "tlsCipherSuites: [TLS_RSA_WITH_RC4_128_SHA]\n",
            &[("tlsCipherSuites[0]", Severity::Warning), ("tlsCipherSuites", Severity::Error)],
        );
    }

    #[test]
    fn f65_what_the_node_role_does_not_do_is_said() {
        check("cgroupsPerQOS: false\n", &[("cgroupsPerQOS", Severity::Error)]);
        check(
            "enforceNodeAllocatable: [pods, system-reserved]\n",
            &[("enforceNodeAllocatable[1]", Severity::Error)],
        );
        check("systemReserved: {gpu: 1}\n", &[("systemReserved.gpu", Severity::Error)]);
        check("kubeReserved: {cpu: some}\n", &[("kubeReserved.cpu", Severity::Error)]);
        check(
            "registerWithTaints: [{key: a, effect: Sometimes}]\n",
            &[("registerWithTaints[0].effect", Severity::Error)],
        );
        check("rotateCertificates: true\n", &[("rotateCertificates", Severity::Warning)]);
        check("serverTLSBootstrap: true\n", &[("serverTLSBootstrap", Severity::Warning)]);
        check(
            "featureGates: {A: true, B: false}\n",
            &[("featureGates.A", Severity::Warning), ("featureGates.B", Severity::Warning)],
        );
        check("authentication: {x: 1}\n", &[("authentication.x", Severity::Warning)]);
        check("evictionSoft: {memory.available: 1Gi}\n", &[("evictionSoft", Severity::Warning)]);
        check("podCIDR: here\n", &[("podCIDR", Severity::Error)]);
    }
}
