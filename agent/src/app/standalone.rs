//! The standalone role: the World is a directory of manifests.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use ipnet::IpNet;
use longshore_core::model::ObjectKey;
use longshore_core::net::masquerade as masquerade_plan;
use longshore_core::standalone::{Settings, hosts_entries};

use super::body::{self, Body, Prepared};
use super::{Options, Source, views};
use crate::effects::network::masquerade;
use crate::serve::Admin;
use crate::supervise::Policy;
use crate::world::files::Files;

/// Runs the standalone role until a signal or the end of a critical task.
///
/// # Errors
/// The first line says what is missing and what to do.
pub fn standalone(options: Options) -> Result<()> {
    let Source::Standalone { manifests, pod_cidr } = options.source.clone() else {
        bail!("these are not the options of the standalone role");
    };
    body::run(options, |prepared| run(prepared, manifests, pod_cidr))
}

async fn run(prepared: Prepared, manifests: std::path::PathBuf, pod_cidr: IpNet) -> Result<()> {
    let state_root = prepared.state.root.clone();
    let mut body = Body::build(prepared).await?;
    let plan = masquerade_plan(pod_cidr, [body.node.service_cidr]);
    body.scope.blocking(move || masquerade::apply(&plan)).await??;
    let (files, source) = Files::open(
        &manifests,
        &state_root,
        Settings::of(&body.node),
        body.store.clone(),
        body.running(),
    );
    body.scope.detach("manifests", Policy::Critical, source.run());
    let domain = body.node.cluster_domain.clone();
    body.run_pods(
        Arc::new(files.clone()),
        Arc::new(move |world, pod: &ObjectKey| hosts_entries(world, &pod.namespace, &domain)),
    )?;
    serve_admin(&body, &state_root, files)?;
    tracing::info!(manifests = %manifests.display(), state = %state_root.display(), "Longshore is running");
    body.wait().await
}

fn serve_admin(body: &Body, state_root: &Path, files: Files) -> Result<()> {
    let windows = views::Windows::of(body, "standalone", Box::new(move || files.problems()));
    let admin = Admin::bind(state_root)?;
    body.scope.detach("admin", Policy::Critical, admin.run(Arc::new(windows)));
    Ok(())
}
