//! The node role: the World is what an API server has for this node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use longshore_core::config::{AuthorizationMode, KubeletConfig, TlsVersion};
use longshore_core::model::{PodUid, Severity};
use longshore_core::node::{Identity, architecture, check_labels};
use longshore_core::pod::paths::is_path_name;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::body::{self, Body, Prepared};
use super::port::{ApiReviews, Port};
use super::{Options, Source, readiness, views};
use crate::clock;
use crate::dataplane::Dataplane;
use crate::effects::api::{Api, events};
use crate::effects::volumes;
use crate::observe::Machine;
use crate::serve::kubelet::Sample;
use crate::serve::{Admin, kubelet};
use crate::supervise::{Policy, Scope};
use crate::tls::{self, Serving};
use crate::workers::dataplane::View;
use crate::workers::node::{NodeWorker, Watched};
use crate::workers::{mirrors, pod_status, routes, tokens};
use crate::world::api::{self, Handle};
use crate::world::static_pods::StaticPath;

/// How long a control plane may take to give a Node its pod CIDR.
const NO_RANGE: Duration = Duration::from_secs(15);

/// What only this role is told.
struct Given {
    kubeconfig: PathBuf,
    dataplane_kubeconfig: PathBuf,
    root_dir: PathBuf,
    labels: BTreeMap<String, String>,
}

/// Runs the node role until a signal or the end of a critical task.
///
/// # Errors
/// The first line says what is missing and what to do.
pub fn node(options: Options) -> Result<()> {
    let Source::Node { kubeconfig, dataplane_kubeconfig, root_dir, labels } =
        options.source.clone()
    else {
        bail!("these are not the options of the node role");
    };
    let labels = parse_labels(&labels)?;
    let given = Given { kubeconfig, dataplane_kubeconfig, root_dir, labels };
    body::run(options, |prepared| run(prepared, given))
}

/// `key=value` each; the API server would refuse others (A3).
fn parse_labels(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (key, value) = text
            .split_once('=')
            .with_context(|| format!("--node-labels {text:?} is not of the form key=value"))?;
        labels.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    if let Some(problem) =
        check_labels(&labels).into_iter().find(|one| one.severity == Severity::Error)
    {
        bail!("{} {}", problem.field, problem.message);
    }
    Ok(labels)
}

async fn run(prepared: Prepared, given: Given) -> Result<()> {
    let state_root = prepared.state.root.clone();
    let api = Api::from_kubeconfig(&given.kubeconfig).await?;
    let dataplane_api = Api::from_kubeconfig(&given.dataplane_kubeconfig)
        .await
        .context("the dataplane's identity (see deploy/rbac.yaml)")?;
    let tls = serving(&prepared.config, &given, &prepared.options)?;
    let mut body = Body::build(prepared).await?;
    let name = body.node.name.clone();

    let source = api::Source::new(
        body.store.clone(),
        api::Clients {
            node: api.client(),
            node_patient: api.patient_client(),
            dataplane: dataplane_api.client(),
        },
        &name,
        api::Settings {
            scope: body.scope.clone(),
            state_dir: state_root.clone(),
            static_pods: static_path(&body.config),
        },
    );
    let handle = source.handle();
    let (sink, statuses) = pod_status::new(
        body.store.clone(),
        handle.clone(),
        api.clone(),
        &name,
        Box::new(forgetter(&body.scope, Path::new(&body.node.pods_dir))),
    );
    // Bound before anything is promised to the API server: a taken port is the first error.
    let reviews = Arc::new(ApiReviews(api.clone()));
    let port = Arc::new(port(&body));
    let settings = port_settings(&body);
    let server = kubelet::Server::bind(settings, tls, reviews, port, body.scope.clone()).await?;

    spawn_writers(&body, &api, &given, handle.clone(), statuses);
    body.scope.detach("world", Policy::Critical, source.run());
    body.scope.detach("node port", Policy::Critical, server.run());
    pod_network(&body).await?;
    body.run_pods(Arc::new(sink), Arc::new(|_, _| Vec::new()))?;
    serve_admin(&body, &state_root, handle)?;
    tracing::info!(node = name, state = %state_root.display(), "Longshore is running");
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "The service manager cannot be told that the daemon is ready");
    }
    body.wait().await
}

/// Removes the directory of a pod whose end the API server has heard of.
fn forgetter(scope: &Scope, pods_dir: &Path) -> impl Fn(&PodUid) + Send + 'static {
    let (scope, pods_dir) = (scope.clone(), pods_dir.to_owned());
    move |uid| {
        if !is_path_name(uid.as_str()) {
            return;
        }
        let (disk, pods_dir, uid) = (scope.clone(), pods_dir.clone(), uid.clone());
        scope.detach(format!("forget {uid}"), Policy::Finite, async move {
            let (pod, forgotten) = (uid.clone(), move || volumes::forget(&pods_dir, uid.as_str()));
            if let Ok(Err(error)) = disk.blocking(forgotten).await {
                tracing::warn!(uid = %pod, %error, "A pod's directory stays for now");
            }
        });
    }
}

/// Everything that writes to the API server under the node's own identity.
fn spawn_writers(
    body: &Body,
    api: &Api,
    given: &Given,
    source: Handle,
    statuses: pod_status::PodStatuses,
) {
    // Before the first event: what is recorded earlier is sent to nobody.
    let feed = body.recorder.feed();
    let (scope, store, name) = (&body.scope, body.store.clone(), body.node.name.clone());
    let worker = NodeWorker::new(
        api.clone(),
        identity(body, given),
        body.config.clone(),
        Arc::new(Machine::new(scope.clone(), given.root_dir.clone(), body.cri.channel())),
        Watched {
            runtime: body.observer.status(),
            listed: body.observer.listed(),
            dataplane: readiness::follow(scope, body.view.clone(), source),
        },
        body.recorder.clone(),
        body.node.cgroup_v2,
    );
    scope.detach("node", Policy::Critical, worker.run());
    scope.detach("pod statuses", Policy::Critical, statuses.run());
    let tokens = tokens::run(
        store.clone(),
        api.clone(),
        body.recorder.clone(),
        name.clone(),
        PathBuf::from(&body.node.pods_dir),
    );
    scope.detach("tokens", Policy::Critical, tokens);
    let mirrors = mirrors::run(store.clone(), api.clone(), name.clone());
    scope.detach("mirror pods", Policy::Critical, mirrors);
    let is_init = Box::new(move |key: &longshore_core::model::ObjectKey, container: &str| {
        let world = store.snapshot();
        let spec = world.pods.get(key).and_then(|pod| pod.spec.as_ref());
        spec.is_some_and(|spec| {
            spec.init_containers.iter().flatten().any(|init| init.name == container)
        })
    });
    let events = events::run(api.clone(), feed, name, is_init);
    scope.detach("events", Policy::Critical, events);
}

fn identity(body: &Body, given: &Given) -> Identity {
    Identity {
        name: body.node.name.clone(),
        hostname: body.node.name.clone(),
        ips: body.node.ips.clone(),
        labels: given.labels.clone(),
        external_cloud: false,
        architecture: architecture(std::env::consts::ARCH).to_owned(),
    }
}

/// Addresses for pods when the control plane has given a range, and the ways to other nodes.
async fn pod_network(body: &Body) -> Result<()> {
    let (range, mut ranges) = watch::channel(body.cni.range().await);
    let configured = match body.config.node.pod_cidr {
        Some(IpNet::V4(range)) => Some(range),
        _ => None,
    };
    let place = routes::Place {
        node_name: body.node.name.clone(),
        attached: body.network.attached().await?,
        configured,
        service_cidr: body.node.service_cidr,
    };
    let routes = routes::run(
        body.store.clone(),
        body.network.clone(),
        body.scope.clone(),
        place,
        Arc::new(range),
    );
    body.scope.detach("routes", Policy::Critical, routes);
    let opener = body.opener();
    body.scope.detach("pod range", Policy::Critical, async move {
        let mut said = false;
        loop {
            let range: Option<Ipv4Net> = *ranges.borrow_and_update();
            match range {
                Some(range) => {
                    if let Err(error) = opener.open(range).await {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "Cannot open the pod network; trying again"
                        );
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        continue;
                    }
                }
                // The control plane's word counts, if it has one (podCIDR of the configuration).
                None if !said => {
                    if let Ok(changed) = tokio::time::timeout(NO_RANGE, ranges.changed()).await {
                        match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        }
                    }
                    said = true;
                    let Some(range) = configured else {
                        tracing::warn!(
                            "This node has no pod CIDR yet: pods with a network of their own wait \
                             (is the controller manager run with --allocate-node-cidrs?)"
                        );
                        continue;
                    };
                    tracing::warn!(%range, "The control plane gives this node no pod CIDR; using \
                        podCIDR of --config, to which other nodes have no route");
                    if let Err(error) = opener.open(range).await {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "Cannot open the pod network"
                        );
                        said = false;
                    }
                }
                None => {}
            }
            if ranges.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn static_path(config: &KubeletConfig) -> Option<StaticPath> {
    let path = &config.node.static_pod_path;
    let every = Duration::from_millis(config.node.file_check_frequency_ms.unsigned_abs());
    (!path.is_empty()).then(|| StaticPath { directory: PathBuf::from(path), every })
}

fn port(body: &Body) -> Port {
    let (view, dataplane) = (body.view.clone(), body.dataplane.clone());
    Port {
        store: body.store.clone(),
        observer: body.observer.clone(),
        heartbeat: body.heartbeat.clone(),
        cri: body.cri.clone(),
        configz: configz(&body.config),
        samples: Box::new(move || samples(&view.borrow(), &dataplane)),
    }
}

/// What the dataplane counts.
fn samples(view: &View, dataplane: &Dataplane) -> Vec<Sample> {
    let mut samples = vec![
        Sample {
            family: "longshore_dataplane_revision",
            help: "Revision of the World that the maps mean.",
            labels: Vec::new(),
            value: view.revision as f64,
        },
        Sample {
            family: "longshore_dataplane_refused",
            help: "Changes that do not fit into the maps.",
            labels: Vec::new(),
            value: view.refused.len() as f64,
        },
    ];
    for (reason, count) in dataplane.drops().unwrap_or_default() {
        samples.push(Sample {
            family: "longshore_drops_total",
            help: "Packets that were dropped, by reason.",
            labels: vec![("reason", format!("{reason:?}"))],
            value: count as f64,
        });
    }
    samples
}

/// The fields that are read, as they are in force.
fn configz(config: &KubeletConfig) -> Value {
    let node = &config.node;
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "containerRuntimeEndpoint": config.container_runtime_endpoint,
        "podLogsDir": config.pod_logs_dir,
        "cgroupRoot": config.cgroup_root,
        "clusterDNS": config.cluster_dns,
        "clusterDomain": config.cluster_domain,
        "failCgroupV1": config.fail_cgroup_v1,
        "failSwapOn": config.fail_swap_on,
        "maxPods": node.max_pods,
        "podsPerCore": node.pods_per_core,
        "staticPodPath": node.static_pod_path,
        "address": node.server.address,
        "port": node.server.port,
        "nodeLeaseDurationSeconds": node.lease_duration_s,
        "nodeStatusUpdateFrequency": format!("{}ms", node.status_update_frequency_ms),
        "nodeStatusReportFrequency": format!("{}ms", node.status_report_frequency_ms),
    })
}

fn port_settings(body: &Body) -> kubelet::Settings {
    let server = &body.config.node.server;
    let millis = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    let (authentication, authorization) = (&server.authentication, &server.authorization);
    kubelet::Settings {
        node_name: body.node.name.clone(),
        address: server.address,
        port: server.port,
        healthz: server.healthz_port.map(|port| (server.healthz_address, port).into()),
        authentication: kubelet::Authentication {
            webhook: authentication.webhook.then(|| millis(authentication.webhook_cache_ttl_ms)),
            anonymous: authentication.anonymous,
        },
        authorization: match authorization.mode {
            AuthorizationMode::AlwaysAllow => kubelet::Authorization::AlwaysAllow,
            AuthorizationMode::Webhook => kubelet::Authorization::Webhook {
                allowed: millis(authorization.authorized_ttl_ms),
                denied: millis(authorization.unauthorized_ttl_ms),
            },
        },
        pod_logs_dir: PathBuf::from(&body.node.pod_logs_dir),
    }
}

/// The serving certificate: that of the configuration, or one of our own in `<root-dir>/pki`.
fn serving(config: &KubeletConfig, given: &Given, options: &Options) -> Result<Serving> {
    let server = &config.node.server;
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => super::facts::hostname()?,
    };
    let settings = tls::Settings {
        cert_file: path(&server.tls_cert_file),
        key_file: path(&server.tls_private_key_file),
        client_ca_file: path(&server.authentication.client_ca_file),
        pki_dir: given.root_dir.join("pki"),
        min_version: match server.tls_min_version {
            TlsVersion::Tls12 => "VersionTLS12".into(),
            TlsVersion::Tls13 => "VersionTLS13".into(),
        },
        cipher_suites: server.tls_cipher_suites.clone(),
        node_name: name,
        ips: options.node_ip.into_iter().chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]).collect(),
    };
    Ok(Serving::load_or_make(settings, clock::wall().unix_ms() / 1000)?)
}

fn serve_admin(body: &Body, state_root: &Path, handle: Handle) -> Result<()> {
    let windows = views::Windows::of(body, "node", Box::new(move || handle.problems()));
    let admin = Admin::bind(state_root)?;
    body.scope.detach("admin", Policy::Critical, admin.run(Arc::new(windows)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_node_labels_are_refused_before_the_api_server_does() {
        let labels = |text: &[&str]| {
            let texts: Vec<String> = text.iter().map(|one| (*one).to_owned()).collect();
            parse_labels(&texts)
        };
        assert_eq!(labels(&["a=b", "c/d=e"]).unwrap().len(), 2);
        assert!(labels(&["a"]).unwrap_err().to_string().contains("key=value"));
        let error = labels(&["node-restriction.kubernetes.io/x=y"]).unwrap_err().to_string();
        assert!(error.contains("--node-labels"), "{error}");
    }
}
