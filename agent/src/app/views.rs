//! What the admin socket shows, read from the rooms that know it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use longshore_core::image::{Image, Physical, Protocol, kernel_text, render};
use longshore_core::model::{ObjectKey, PodUid, Time, World};
use longshore_core::oracle::{Opener, explain_flow};
use longshore_core::standalone::Located;
use tokio::sync::watch;

use super::body::Body;
use crate::clock;
use crate::dataplane::Dataplane;
use crate::effects::events::Recorder;
use crate::observe::RuntimeStatus;
use crate::serve::protocol::{EventRow, FlowQuery};
use crate::serve::{NodeFacts, Views};
use crate::workers::dataplane::{SharedImage, View};
use crate::workers::{Explanations, flows};
use crate::world::Store;

/// Handles to everything that can be shown.
pub struct Windows {
    pub store: Store,
    /// Without what degrades: that is asked when somebody looks.
    pub node: NodeFacts,
    /// What is wrong with the source of the World.
    pub source_problems: Box<dyn Fn() -> Vec<Located> + Send + Sync>,
    pub recorder: Recorder,
    pub explanations: Explanations,
    pub runtime: watch::Receiver<Option<RuntimeStatus>>,
    pub dataplane: Arc<Dataplane>,
    pub image: SharedImage,
    pub view: watch::Receiver<View>,
    pub flows: watch::Receiver<flows::View>,
}

impl Windows {
    pub fn of(
        body: &Body,
        role: &str,
        source_problems: Box<dyn Fn() -> Vec<Located> + Send + Sync>,
    ) -> Self {
        Self {
            store: body.store.clone(),
            node: body.facts(role),
            source_problems,
            recorder: body.recorder.clone(),
            explanations: body.explanations.clone(),
            runtime: body.observer.status(),
            dataplane: body.dataplane.clone(),
            image: body.image.clone(),
            view: body.view.clone(),
            flows: body.flows.clone(),
        }
    }
}

impl Views for Windows {
    fn world(&self) -> Arc<World> {
        self.store.snapshot()
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn node(&self) -> NodeFacts {
        let mut facts = self.node.clone();
        match &*self.runtime.borrow() {
            None => facts.degraded.push("the container runtime does not answer".into()),
            Some(status) if !status.ready => {
                facts
                    .degraded
                    .push(format!("the container runtime is not ready: {}", status.message));
            }
            Some(status) if !status.network_ready => {
                facts.degraded.push(format!("the pod network is not ready: {}", status.message));
            }
            Some(_) => {}
        }
        let view = self.view.borrow();
        if view.revision == 0 && !view.adopted {
            facts.degraded.push("dataplane: nothing was written to the maps yet".into());
        }
        facts.degraded.extend(view.error.iter().map(|error| format!("dataplane: {error}")));
        facts.degraded.extend(view.refused.iter().map(|refused| format!("dataplane: {refused}")));
        let flows = self.flows.borrow();
        facts.flows = flows.rows;
        facts.degraded.extend(flows.error.iter().map(|error| format!("flows: {error}")));
        facts
    }

    fn problems(&self) -> Vec<Located> {
        let compiled = self.view.borrow().problems.clone();
        let mut all = (self.source_problems)();
        // What only the compilers can see has no line of a file.
        all.extend(compiled.into_iter().map(|problem| Located {
            file: String::new(),
            line: 0,
            problem,
        }));
        all
    }

    fn events(&self, count: usize) -> Vec<EventRow> {
        let all = self.recorder.all();
        let skip = all.len().saturating_sub(count);
        all.into_iter()
            .skip(skip)
            .map(|event| EventRow {
                at_unix_ms: event.last.unix_ms(),
                warning: event.warning,
                reason: event.reason,
                object: format!("{:?} {}", event.kind, event.key),
                message: event.message,
                count: event.count,
            })
            .collect()
    }

    fn why_pod(&self, uid: &PodUid) -> Vec<String> {
        self.explanations.of(uid)
    }

    fn service_text(&self, key: &ObjectKey) -> Vec<String> {
        let mut services = self.image.get().services;
        services.retain(|_, entry| entry.service == *key);
        if services.is_empty() {
            return vec![format!("no frontend of {key} is in the dataplane")];
        }
        let part = Image { services, ..Image::default() };
        let mut lines: Vec<String> = render(&part).lines().map(str::to_owned).collect();
        lines.push(match self.maps_kernel() {
            Ok(text) if text == self.maps_wanted() => "the kernel's maps mean exactly this".into(),
            Ok(_) => "the kernel's maps differ: see longshore maps diff".into(),
            Err(error) => format!("the kernel's maps cannot be read: {error}"),
        });
        lines
    }

    fn flow(&self, query: &FlowQuery) -> Result<Vec<String>, String> {
        let world = self.store.snapshot();
        let from = match query.from.parse::<IpAddr>() {
            Ok(address) => Opener::Addr(address),
            Err(_) => Opener::Pod(key_of(&query.from)?),
        };
        let to = target(&world, &query.to)?;
        let protocol = match query.protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(format!("protocol {other:?} is neither tcp nor udp")),
        };
        let explained = explain_flow(&self.image.get(), &from, to.ip(), to.port(), protocol);
        Ok(explained.to_string().lines().map(str::to_owned).collect())
    }

    fn maps_wanted(&self) -> String {
        render(&self.image.get())
    }

    fn maps_kernel(&self) -> Result<String, String> {
        let rows = self.dataplane.rows().map_err(|error| error.to_string())?;
        let image = self.image.get();
        // Rows have positions and numbers; what they mean is compared by what would have to be
        // written to make them mean the image.
        match Physical::adopt(&rows).plan_full(&image, clock::now()) {
            Ok(ops) if ops.is_empty() => Ok(render(&image)),
            Ok(ops) => {
                let missing: Vec<String> = ops.iter().map(|op| format!("write {op:?}")).collect();
                Ok(format!("{}{}\n", kernel_text(&rows), missing.join("\n")))
            }
            Err(refused) => Err(refused.to_string()),
        }
    }
}

fn key_of(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !name.contains('/') => Ok(ObjectKey::new(namespace, name)),
        _ => Err(format!("{text:?} is neither an address nor NAMESPACE/NAME")),
    }
}

/// `IP:PORT`, or `NAMESPACE/NAME:PORT` of a Service or, if there is none of that name, a pod.
fn target(world: &World, text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = || format!("{text:?} is neither IP:PORT nor NAMESPACE/NAME:PORT");
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let key = key_of(name).map_err(|_| wrong())?;
    let address = world
        .services
        .get(&key)
        .and_then(|service| cluster_ip(service))
        .or_else(|| pod_ip(world, &key))
        .ok_or_else(|| format!("no Service or pod {key} with an address"))?;
    Ok(SocketAddr::new(address, port))
}

fn cluster_ip(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

fn pod_ip(world: &World, key: &ObjectKey) -> Option<IpAddr> {
    let uid = PodUid::new(world.pods.get(key)?.metadata.uid.clone()?);
    world.local.get(&uid)?.attachment.as_ref().map(|attachment| attachment.ip)
}
