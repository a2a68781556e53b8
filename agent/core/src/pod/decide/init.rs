//! Init containers in order, and the sidecars among them (A42, A43).

use super::containers;
use super::steps::Steps;
use crate::model::ObservedSandbox;
use crate::pod::view::exited_well;
use crate::pod::visit::Role;

/// The first that is not done is next; sidecars before it are kept running.
pub(super) fn tend(steps: &mut Steps<'_>, sandbox: &ObservedSandbox) {
    let view = steps.view;
    let init: Vec<_> = view.containers().filter(|(role, _)| *role != Role::App).collect();
    let here = |name: &str| view.newest(name).filter(|newest| newest.sandbox_id == sandbox.id);
    // A later one that exists in this sandbox proves the earlier ones.
    let reached = init.iter().rposition(|(_, container)| here(&container.name).is_some());
    for (i, (role, container)) in init.iter().enumerate() {
        let newest = here(&container.name);
        match role {
            Role::Sidecar => {
                containers::tend(steps, *role, container, sandbox);
                if !newest.is_some_and(|newest| view.started(container, newest)) {
                    steps.why(format!("waiting for sidecar {} to start", container.name));
                    return;
                }
            }
            _ => {
                let behind = reached.is_some_and(|reached| i < reached);
                if behind || newest.is_some_and(exited_well) {
                    continue;
                }
                match newest {
                    // It ended well in an older sandbox and must run again here (A39).
                    None if view.newest(&container.name).is_some_and(exited_well) => {
                        containers::rerun(steps, container, sandbox);
                    }
                    _ => containers::tend(steps, *role, container, sandbox),
                }
                steps.why(format!("waiting for init container {}", container.name));
                return;
            }
        }
    }
}

/// After initialization sidecars are kept running like app containers.
pub(super) fn tend_sidecars(steps: &mut Steps<'_>, sandbox: &ObservedSandbox) {
    let view = steps.view;
    for (role, container) in view.containers().filter(|(role, _)| *role == Role::Sidecar) {
        containers::tend(steps, role, container, sandbox);
    }
}
