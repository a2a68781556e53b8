//! Text of a KubeletConfiguration → [`KubeletConfig`] and what is wrong with it.
//!
//! A field that cannot be read keeps its default and is an error: the shell does not start on one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CgroupDriver, KubeletConfig};
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// Fields whose value must not be ignored: what follows from ignoring it, and the values that
/// mean what Longshore does anyway.
const ISOLATION: [(&str, &str, &[&str]); 7] = [
    ("protectKernelDefaults", "kernel settings would not be checked", &["false"]),
    ("memorySwap", "swap limits would not be set", &["{}"]),
    ("userNamespaces", "ID ranges of pods would differ", &["{}"]),
    ("reservedSystemCPUs", "pods would run on reserved CPUs", &["\"\""]),
    ("cpuManagerPolicy", "containers would not get their own CPUs", &["\"none\"", "\"\""]),
    ("memoryManagerPolicy", "memory would not be pinned", &["\"None\"", "\"\""]),
    ("topologyManagerPolicy", "resources would not be aligned", &["\"none\"", "\"\""]),
];

/// Reads `text` (YAML or JSON).
pub fn parse(text: &str) -> (KubeletConfig, Vec<Problem>) {
    let mut reader = Reader { fields: BTreeMap::new(), problems: Vec::new() };
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

struct Reader {
    fields: BTreeMap<String, Value>,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, severity: Severity, field: &str, message: String) {
        self.problems.push(Problem {
            kind: Kind::File,
            key: ObjectKey::new("", "KubeletConfiguration"),
            severity,
            reason: "InvalidConfiguration",
            field: field.into(),
            message,
        });
    }

    fn error(&mut self, field: &str, message: String) {
        self.problem(Severity::Error, field, message);
    }

    fn config(&mut self) -> KubeletConfig {
        let mut config = KubeletConfig::default();
        self.header();
        self.text("containerRuntimeEndpoint", &mut config.container_runtime_endpoint);
        self.text("podLogsDir", &mut config.pod_logs_dir);
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
        if let Some(value) = self.fields.remove("crashLoopBackOff") {
            let mut inner = Reader { fields: BTreeMap::new(), problems: Vec::new() };
            match value {
                Value::Object(fields) => inner.fields = fields.into_iter().collect(),
                Value::Null => {}
                _ => self.error("crashLoopBackOff", "is not a mapping".into()),
            }
            inner.millis(
                "maxContainerRestartPeriod",
                1000..=300_000,
                &mut config.max_container_restart_period_ms,
            );
            inner.rest();
            for mut problem in inner.problems {
                problem.field = format!("crashLoopBackOff.{}", problem.field);
                self.problems.push(problem);
            }
        }
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

    /// What nobody took: not read yet, or not a field at all.
    fn rest(&mut self) {
        let fields = std::mem::take(&mut self.fields);
        for (field, value) in fields {
            if value.is_null() {
                continue;
            }
            match ISOLATION.iter().find(|(name, ..)| *name == field) {
                Some((.., same)) if same.contains(&value.to_string().as_str()) => {}
                Some((_, loss, _)) => self.error(
                    &field,
                    format!("is not supported and {loss}: remove it or run a kubelet here"),
                ),
                None => self.problem(
                    Severity::Warning,
                    &field,
                    "is not read by Longshore and has no effect".into(),
                ),
            }
        }
    }

    fn text(&mut self, field: &str, into: &mut String) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => *into = text,
            Some(other) => self.error(field, format!("is {other}, not a string")),
        }
    }

    fn texts(&mut self, field: &str, into: &mut Vec<String>) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    match item {
                        Value::String(text) => into.push(text),
                        other => self
                            .error(&format!("{field}[{i}]"), format!("is {other}, not a string")),
                    }
                }
            }
            Some(other) => self.error(field, format!("is {other}, not a list")),
        }
    }

    fn flag(&mut self, field: &str, into: &mut bool) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::Bool(flag)) => *into = flag,
            Some(other) => self.error(field, format!("is {other}, not true or false")),
        }
    }

    fn number(&mut self, field: &str, range: std::ops::RangeInclusive<i64>, into: &mut i64) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_i64().filter(|n| range.contains(n)) {
                Some(n) => *into = n,
                None => self.error(
                    field,
                    format!("is {value}: not between {} and {}", range.start(), range.end()),
                ),
            },
        }
    }

    /// A Go duration (`1m30s`, `500ms`); `0s` means "the default".
    fn millis(&mut self, field: &str, range: std::ops::RangeInclusive<i64>, into: &mut i64) {
        let mut text = String::new();
        self.text(field, &mut text);
        if text.is_empty() || text == "0" || text == "0s" {
            return;
        }
        match duration_ms(&text).filter(|ms| range.contains(ms)) {
            Some(ms) => *into = ms,
            None => self.error(
                field,
                format!("{text:?} is not between {} ms and {} ms", range.start(), range.end()),
            ),
        }
    }
}

/// Milliseconds of a Go duration; parts below one are cut.
pub fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total_us = 0i64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let unit_us = match unit {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        total_us = total_us.checked_add(digits.parse::<i64>().ok()?.checked_mul(unit_us)?)?;
        rest = next;
    }
    Some(total_us / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        check("nodeStatusMaxImages: 5\n", &[("nodeStatusMaxImages", Severity::Warning)]);
        check("noSuchField: 1\n", &[("noSuchField", Severity::Warning)]);
        check("maxPods: 20\n", &[("maxPods", Severity::Warning)]);
        check("runtimeRequestTimeout: 1m\n", &[("runtimeRequestTimeout", Severity::Warning)]);
        check("protectKernelDefaults: true\n", &[("protectKernelDefaults", Severity::Error)]);
        check("protectKernelDefaults: false\ncpuManagerPolicy: none\n", &[]);
        check("cpuManagerPolicy: static\n", &[("cpuManagerPolicy", Severity::Error)]);
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
}
