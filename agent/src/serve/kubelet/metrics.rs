//! `/metrics` (A185, A192): what is really counted, in Prometheus' text form; nothing else is
//! listed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hyper::Method;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::body::{Answer, metrics};
use super::route;
use super::server::Shared;

/// One number of a family.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// As Prometheus wants names; counters end in `_total`.
    pub family: &'static str,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// Requests to the node port, by method and first word of the path.
#[derive(Default)]
pub struct Requests {
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Requests {
    pub fn count(&self, method: &Method, path: &str) {
        // Only names of ours: a caller must not be able to make rows.
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::HEAD => "HEAD",
            _ => "unknown",
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((method, route::bucket(path))).or_default() += 1;
    }

    fn samples(&self) -> Vec<Sample> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = |((method, path), count): (&(&'static str, &'static str), &u64)| Sample {
            family: "kubelet_http_requests_total",
            help: "Requests to the node port.",
            labels: vec![
                ("method", (*method).to_owned()),
                ("path", (*path).to_owned()),
                ("server_type", "readwrite".to_owned()),
            ],
            value: *count as f64,
        };
        counts.iter().map(sample).collect()
    }
}

pub fn answer(shared: &Shared) -> Answer {
    let mut samples = of_pods(shared);
    samples.extend(shared.requests.samples());
    samples.extend(shared.views.samples());
    metrics(render(samples))
}

fn of_pods(shared: &Shared) -> Vec<Sample> {
    let plain = |family, help, labels, value| Sample { family, help, labels, value };
    let (mut pods, mut running, mut exited) = (0u32, 0u32, 0u32);
    for pod in super::pods::own(shared) {
        let status = pod.status.unwrap_or_default();
        let lists = [status.container_statuses, status.init_container_statuses];
        let mut runs = false;
        for state in lists.iter().flatten().flatten().filter_map(|one| one.state.as_ref()) {
            running += u32::from(state.running.is_some());
            exited += u32::from(state.terminated.is_some());
            runs |= state.running.is_some();
        }
        pods += u32::from(runs);
    }
    let containers = |state: &str, count: u32| {
        plain(
            "kubelet_running_containers",
            "Containers of this node's pods by their state.",
            vec![("container_state", state.to_owned())],
            f64::from(count),
        )
    };
    let node = vec![("node", shared.settings.node_name.clone())];
    vec![
        plain("kubelet_node_name", "The node's name. The value is always 1.", node, 1.0),
        plain(
            "kubelet_running_pods",
            "Pods of this node with a running container.",
            Vec::new(),
            f64::from(pods),
        ),
        containers("exited", exited),
        containers("running", running),
    ]
}

/// The text form of OpenMetrics.
fn render(samples: Vec<Sample>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(samples)));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut out, &registry);
    out
}

/// Samples of one moment, for the library's encoder.
#[derive(Debug)]
struct Samples(Vec<Sample>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut families: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.0 {
            families.entry(sample.family).or_default().push(sample);
        }
        for (family, samples) in families {
            let help = samples.first().map_or("", |sample| sample.help);
            // The library writes the suffix of counters.
            let counter = family.strip_suffix("_total");
            let kind = if counter.is_some() { MetricType::Counter } else { MetricType::Gauge };
            let name = counter.unwrap_or(family);
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            let write = |sample: &Sample, row: MetricEncoder<'_>| match counter {
                Some(_) => ConstCounter::new(sample.value).encode(row),
                None => ConstGauge::new(sample.value).encode(row),
            };
            match samples.as_slice() {
                [one] if one.labels.is_empty() => write(one, metric)?,
                _ => {
                    for sample in samples {
                        write(sample, metric.encode_family(&sample.labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a185_the_text_form_of_metrics() {
        let sample = |family, label: &str, value| Sample {
            family,
            help: "What it is.",
            labels: vec![("name", label.to_owned())],
            value,
        };
        let plain = Sample { family: "a", help: "An a.", labels: Vec::new(), value: 0.5 };
        let text =
            render(vec![sample("b_total", "x", 1.0), plain, sample("b_total", "q\"\n\\", 2.0)]);
        let want = "# HELP a An a.\n# TYPE a gauge\na 0.5\n# HELP b What it is.\n# TYPE b counter\n\
            b_total{name=\"x\"} 1.0\nb_total{name=\"q\\\"\\n\\\\\"} 2.0\n# EOF\n";
        assert_eq!(text, want);
    }

    #[test]
    fn a185_a_caller_cannot_make_rows() {
        let requests = Requests::default();
        for n in 0..1000 {
            let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            requests.count(&method, &format!("/{n}"));
        }
        assert_eq!(requests.samples().len(), 1);
    }
}
