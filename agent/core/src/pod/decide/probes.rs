//! Which probes should run now (A61, A91–A93).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::model::{ContainerState, ObservedContainer, ProbeKind, Time};
use crate::pod::action::ProbeTarget;
use crate::pod::env;
use crate::pod::view::View;
use crate::pod::visit::Role;

/// Startup first, then liveness and readiness; only readiness once the pod is ending (A61, A92).
pub(super) fn targets(view: &View<'_>, ending: bool) -> Vec<ProbeTarget> {
    let mut targets = Vec::new();
    let host = view.ips().first().map(IpAddr::to_string).unwrap_or_default();
    for (_, container) in view.containers().filter(|(role, _)| *role != Role::Init) {
        let Some(instance) = view.newest(&container.name) else { continue };
        let ContainerState::Running { started_at } = instance.state else { continue };
        let started = view.started(container, instance);
        let wanted = [
            (ProbeKind::Startup, &container.startup_probe, !started && !ending),
            (ProbeKind::Liveness, &container.liveness_probe, started && !ending),
            (ProbeKind::Readiness, &container.readiness_probe, started),
        ];
        for (kind, probe, _) in wanted.iter().filter(|(.., wanted)| *wanted) {
            if let Some(probe) = probe {
                targets.push(target(container, instance, started_at, *kind, probe, &host));
            }
        }
    }
    targets
}

fn target(
    container: &Container,
    instance: &ObservedContainer,
    started_at: Time,
    kind: ProbeKind,
    probe: &Probe,
    host: &str,
) -> ProbeTarget {
    let mut probe = probe.clone();
    if let Some(exec) = &mut probe.exec {
        let literals = env::literals(container);
        exec.command = Some(env::command_line(exec.command.as_deref(), &literals));
    }
    let named =
        container.ports.iter().flatten().filter_map(|port| {
            Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))
        });
    ProbeTarget {
        container: container.name.clone(),
        container_id: instance.id.clone(),
        kind,
        started_at,
        probe,
        host: host.to_owned(),
        ports: named.collect::<BTreeMap<_, _>>(),
    }
}
