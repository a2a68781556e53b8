//! The daemon's side of the CNI socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::Ipv4Net;
use longshore_cni::{CODE_FAILED, CODE_INVALID, CODE_TRY_AGAIN, Error, Request, Response};
use longshore_core::model::observed::Attachment;
use longshore_core::model::{ObjectKey, PodUid, Time};
use longshore_core::net::interface::{GATEWAY, HOST_PREFIX, host_name};
use longshore_core::net::{InterfacePlan, interface_plan};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use super::{AttachmentSink, Entry, Hooks, Ledger, LedgerError};
use crate::clock;
use crate::effects::network::{Network, NetworkError, pod};
use crate::failpoint;
use crate::supervise::{Policy, Scope};
use crate::sys::netns;

/// Calls at once; more wait in the socket's backlog.
const CALLS_MAX: usize = 64;
/// A request is one line of this length at most.
const REQUEST_BYTES_MAX: u64 = 256 * 1024;
/// A sandbox that the runtime does not list is garbage only after this: its ADD may be under way.
const GC_AGE_MS: i64 = 120_000;
/// Time for the runtime to delete a namespace, and the kernel the interfaces in it.
const REAP_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// What every interface has in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CniConfig {
    pub node_address: Ipv4Addr,
    pub mtu: u32,
}

/// Makes and removes pod interfaces. Clones share it.
#[derive(Clone)]
pub struct Cni {
    shared: Arc<Shared>,
}

struct Shared {
    config: CniConfig,
    network: Network,
    hooks: Box<dyn Hooks>,
    sink: Box<dyn AttachmentSink>,
    ledger: Mutex<Ledger>,
    /// Sandboxes whose call is under way: one call each.
    busy: Mutex<BTreeSet<String>>,
    slots: Arc<Semaphore>,
    scope: Scope,
    started_at: Time,
}

impl Cni {
    pub fn new(
        config: CniConfig,
        network: Network,
        hooks: Box<dyn Hooks>,
        sink: Box<dyn AttachmentSink>,
        ledger: Ledger,
        scope: Scope,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(CALLS_MAX));
        let ledger = Mutex::new(ledger);
        let busy = Mutex::default();
        let started_at = clock::now();
        Self {
            shared: Arc::new(Shared {
                config,
                network,
                hooks,
                sink,
                ledger,
                busy,
                slots,
                scope,
                started_at,
            }),
        }
    }

    /// Announces every interface of the ledger that still exists; forgets the others.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn adopt(&self) -> Result<(), NetworkError> {
        let links: BTreeMap<String, u32> =
            self.shared.network.links().await?.into_iter().map(|l| (l.name, l.ifindex)).collect();
        let mut ledger = self.shared.ledger.lock().await;
        for (sandbox, entry) in ledger.entries().clone() {
            let name = &entry.attachment.ifname;
            if links.get(name) == Some(&entry.attachment.ifindex) {
                if let Err(error) = self.shared.hooks.attach(name) {
                    tracing::error!(pod = %entry.key, interface = name, error, "Cannot renew the hooks of a pod; the old ones stay");
                }
                self.shared.sink.attached(&entry.key, &entry.uid, &entry.attachment);
            } else {
                tracing::warn!(pod = %entry.key, interface = name, "A pod's interface is gone; forgetting it");
                if let (_, Err(error)) = ledger.release(&sandbox, clock::now()) {
                    tracing::warn!(%error, "Cannot write the network ledger");
                }
            }
        }
        Ok(())
    }

    /// Addresses of pods come from `range` from now on.
    pub async fn set_range(&self, range: Ipv4Net) {
        let mut ledger = self.shared.ledger.lock().await;
        if let Some(old) = ledger.range().filter(|old| *old != range.trunc()) {
            tracing::warn!(%old, new = %range, "The node's pod CIDR changed; running pods keep their addresses");
        }
        for problem in ledger.set_range(range, clock::now()) {
            tracing::warn!(problem, "The network ledger");
        }
    }

    /// Where addresses come from; `None`: nobody has said yet.
    pub async fn range(&self) -> Option<Ipv4Net> {
        self.shared.ledger.lock().await.range()
    }

    /// Sandboxes of `listed` that the ledger does not know: all of them when its file was lost.
    pub async fn unknown(&self, listed: BTreeSet<String>) -> BTreeSet<String> {
        let owners = self.shared.ledger.lock().await.owners();
        listed.into_iter().filter(|id| !owners.contains(id)).collect()
    }

    /// Takes in the interface of a running sandbox that the ledger does not know (F39): its name and
    /// MAC follow from the sandbox's id, its address is the runtime's. One without such an interface
    /// is left to its pod's worker.
    pub async fn recover(&self, sandbox: &str, key: &ObjectKey, uid: &PodUid, ip: Ipv4Addr) {
        let config = &self.shared.config;
        let plan = interface_plan(sandbox, ip, config.node_address, config.mtu);
        let Ok(Some(ifindex)) = self.shared.network.ifindex(&plan.host_name).await else { return };
        let attachment = Attachment {
            ip: IpAddr::V4(ip),
            ifindex,
            ifname: plan.host_name,
            mac: plan.pod_mac,
            sandbox_id: sandbox.to_owned(),
        };
        let (key, uid) = (key.clone(), uid.clone());
        let since = clock::now();
        let entry = Entry { key, uid, attachment, netns: String::new(), since };
        tracing::warn!(pod = %entry.key, address = %ip, "Taking in a pod's interface that the lost network ledger held");
        if let Err(error) = self.shared.hooks.attach(&entry.attachment.ifname) {
            tracing::error!(pod = %entry.key, error, "Cannot renew the hooks of a pod; the old ones stay");
        }
        let mut ledger = self.shared.ledger.lock().await;
        if let Err(error) = ledger.readopt(sandbox, entry.clone(), since) {
            tracing::warn!(%error, "Cannot write the network ledger");
        }
        self.shared.sink.attached(&entry.key, &entry.uid, &entry.attachment);
    }

    /// Serves the socket until the daemon stops. The socket file is made anew.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve(&self, socket: &Path) -> std::io::Result<()> {
        let listener = bind(socket)?;
        let cni = self.clone();
        self.shared.scope.detach("cni", Policy::Critical, async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => cni.answer(stream).await,
                    Err(error) => {
                        // Out of descriptors, usually: give others a chance to close some (F38).
                        tracing::warn!(%error, "Cannot accept a CNI call; trying again");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(())
    }

    async fn answer(&self, stream: UnixStream) {
        let Ok(slot) = self.shared.slots.clone().acquire_owned().await else { return };
        let cni = self.clone();
        self.shared.scope.detach("cni-call", Policy::Finite, async move {
            let (reader, mut writer) = stream.into_split();
            let mut line = String::new();
            let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
            if reader.read_line(&mut line).await.is_err() || line.is_empty() {
                return;
            }
            let response = match serde_json::from_str::<Request>(&line) {
                Ok(request) => cni.call(&request).await,
                Err(error) => Err(failure(CODE_INVALID, format!("not a CNI request: {error}"))),
            };
            let response = response.map_or_else(Response::Error, Response::Result);
            if let Ok(mut bytes) = serde_json::to_vec(&response) {
                bytes.push(b'\n');
                // A shim that went away is asked again by its runtime.
                let _ = writer.write_all(&bytes).await;
            }
            drop(slot);
        });
    }

    async fn call(&self, request: &Request) -> Result<Value, Error> {
        if matches!(request.command.as_str(), "STATUS" | "GC") {
            // GC of sandboxes is driven by the runtime's own list: see `collect`.
            return Ok(Value::Null);
        }
        if request.container_id.is_empty() {
            return Err(failure(CODE_INVALID, "CNI_CONTAINERID is empty"));
        }
        if !self.shared.busy.lock().await.insert(request.container_id.clone()) {
            return Err(failure(
                CODE_TRY_AGAIN,
                format!("another call for sandbox {} is under way", request.container_id),
            ));
        }
        let result = match request.command.as_str() {
            "ADD" => self.add(request).await,
            "DEL" => self.delete(&request.container_id).await.map(|()| Value::Null),
            "CHECK" => self.check(&request.container_id).await.map(|()| Value::Null),
            other => Err(failure(CODE_INVALID, format!("unknown CNI_COMMAND {other:?}"))),
        };
        self.shared.busy.lock().await.remove(&request.container_id);
        if let Err(error) = &result {
            tracing::warn!(
                command = request.command,
                sandbox = request.container_id,
                error = error.msg,
                "CNI call failed"
            );
        }
        result
    }

    async fn add(&self, request: &Request) -> Result<Value, Error> {
        let pod = PodArgs::parse(&request.args)?;
        failpoint::hit("cni.add.begin");
        let address = {
            let mut ledger = self.shared.ledger.lock().await;
            ledger
                .allocate(&request.container_id, &pod.uid, clock::now())
                .map_err(|error| ledger_failure(&error))?
        };
        failpoint::hit("cni.add.allocated");
        let config = &self.shared.config;
        let plan = InterfacePlan {
            pod_name: request.ifname.clone(),
            ..interface_plan(&request.container_id, address, config.node_address, config.mtu)
        };
        match self.plug(request, &pod, &plan).await {
            Ok(attachment) => Ok(result_of(request, &plan, &attachment)),
            Err(error) => {
                // A failed ADD leaves nothing; the runtime may or may not call DEL.
                if let Err(undo) = self.delete(&request.container_id).await {
                    tracing::warn!(error = undo.msg, "Cannot undo a failed CNI ADD; GC will");
                }
                Err(error)
            }
        }
    }

    async fn plug(
        &self,
        request: &Request,
        pod: &PodArgs,
        plan: &InterfacePlan,
    ) -> Result<Attachment, Error> {
        let file = netns::open(Path::new(&request.netns)).map_err(|error| {
            failure(CODE_INVALID, format!("CNI_NETNS {}: {error}", request.netns))
        })?;
        let network = &self.shared.network;
        let host =
            network.create_pair(plan, file.as_fd()).await.map_err(|e| network_failure(&e))?;
        failpoint::hit("cni.add.pair");
        self.shared.hooks.attach(&plan.host_name).map_err(|error| {
            failure(CODE_FAILED, format!("cannot attach the pod's hooks: {error}"))
        })?;
        failpoint::hit("cni.add.hooks");
        network.open_host(plan, host).await.map_err(|e| network_failure(&e))?;
        let inside = plan.clone();
        self.shared
            .scope
            .blocking(move || pod::configure_pod(file.as_fd(), &inside))
            .await
            .map_err(|error| failure(CODE_FAILED, error.to_string()))?
            .map_err(|e| network_failure(&e))?;
        let attachment = Attachment {
            ip: IpAddr::V4(plan.pod_addr.addr()),
            ifindex: host.ifindex,
            ifname: plan.host_name.clone(),
            mac: plan.pod_mac,
            sandbox_id: request.container_id.clone(),
        };
        let entry = Entry {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            attachment: attachment.clone(),
            netns: request.netns.clone(),
            since: clock::now(),
        };
        let mut ledger = self.shared.ledger.lock().await;
        ledger.record(&request.container_id, entry).map_err(|error| ledger_failure(&error))?;
        failpoint::hit("cni.add.recorded");
        self.shared.sink.attached(&pod.key, &pod.uid, &attachment);
        Ok(attachment)
    }

    /// Idempotent: what is not there is gone already.
    ///
    /// The interface itself goes with the pod's namespace, which the runtime deletes next: a link
    /// deletion waits 17 ms under RTNL for everyone. One that is still there a little later is
    /// deleted then, or at the next start.
    async fn delete(&self, sandbox: &str) -> Result<(), Error> {
        failpoint::hit("cni.del.begin");
        let name = host_name(sandbox);
        let network = self.shared.network.clone();
        self.shared.scope.detach("reap-interface", Policy::Finite, async move {
            tokio::time::sleep(REAP_AFTER).await;
            if let Err(error) = network.delete_link(&name).await {
                tracing::warn!(%error, "Cannot delete the interface of a pod that is gone");
            }
        });
        let mut ledger = self.shared.ledger.lock().await;
        let (entry, saved) = ledger.release(sandbox, clock::now());
        if let Err(error) = saved {
            // The address is free in memory; the next write that succeeds says so on disk too. A
            // full disk must not keep pods from ending (F34).
            tracing::warn!(%error, "Cannot write the network ledger");
        }
        if let Some(entry) = entry {
            self.shared.sink.detached(&entry.uid, sandbox);
        }
        failpoint::hit("cni.del.released");
        Ok(())
    }

    async fn check(&self, sandbox: &str) -> Result<(), Error> {
        let ledger = self.shared.ledger.lock().await;
        let Some(entry) = ledger.entries().get(sandbox) else {
            return Err(failure(CODE_FAILED, format!("sandbox {sandbox} has no interface")));
        };
        let found = self
            .shared
            .network
            .ifindex(&entry.attachment.ifname)
            .await
            .map_err(|e| network_failure(&e))?;
        if found == Some(entry.attachment.ifindex) {
            Ok(())
        } else {
            Err(failure(CODE_FAILED, format!("interface {} is gone", entry.attachment.ifname)))
        }
    }

    /// An interface is said to have ended. Where that is so, and a sandbox of ours has it, the pod
    /// is not on the network any more: the World hears of it, and the pod's worker looks. The
    /// address stays the sandbox's until its DEL.
    pub async fn interface_ended(&self, ifindex: u32) {
        let ledger = self.shared.ledger.lock().await;
        let mut entries = ledger.entries().values();
        let Some(entry) = entries.find(|entry| entry.attachment.ifindex == ifindex) else { return };
        let (interface, sandbox) = (&entry.attachment.ifname, &entry.attachment.sandbox_id);
        if self.interface_lost(sandbox).await {
            tracing::warn!(pod = %entry.key, interface, "A pod's interface is gone");
            self.shared.sink.detached(&entry.uid, sandbox);
        }
    }

    /// The kernel is sure not to have the interface of `sandbox`.
    pub async fn interface_lost(&self, sandbox: &str) -> bool {
        match self.shared.network.ifindex(&host_name(sandbox)).await {
            Ok(found) => found.is_none(),
            Err(error) => {
                tracing::warn!(sandbox, %error, "Cannot look a pod's interface up");
                false
            }
        }
    }

    /// When this daemon began to answer.
    pub fn started_at(&self) -> Time {
        self.shared.started_at
    }

    /// Removes what belongs to no sandbox of `live`, the runtime's complete list (F19), and is from
    /// before `found_before`: at a start, what the daemon before this one gave. All else must be
    /// old, because the runtime lists a sandbox only after its ADD.
    pub async fn collect(&self, live: &BTreeSet<String>, found_before: Option<Time>) {
        let old = clock::now().plus_ms(-GC_AGE_MS);
        let before = found_before.map_or(old, |found| found.max(old));
        let dead: Vec<String> = {
            let ledger = self.shared.ledger.lock().await;
            let is_old = |id: &String| ledger.since(id).is_none_or(|since| since < before);
            ledger.owners().into_iter().filter(|id| !live.contains(id) && is_old(id)).collect()
        };
        for sandbox in dead {
            if !self.shared.busy.lock().await.insert(sandbox.clone()) {
                continue;
            }
            tracing::info!(sandbox, "Collecting the interface of a sandbox that is gone");
            if let Err(error) = self.delete(&sandbox).await {
                tracing::warn!(
                    sandbox,
                    error = error.msg,
                    "Cannot collect an interface; trying again later"
                );
            }
            self.shared.busy.lock().await.remove(&sandbox);
        }
        if let Err(error) = self.collect_links(live).await {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(error, "Cannot look for interfaces that no sandbox owns");
        }
    }

    /// Deletes interfaces of ours that belong to no sandbox, listed or under way. Links are read
    /// before owners: an owner is written before its link is made.
    async fn collect_links(&self, live: &BTreeSet<String>) -> Result<(), NetworkError> {
        let links = self.shared.network.links().await?;
        let owners = self.shared.ledger.lock().await.owners();
        let known: BTreeSet<String> = owners.iter().chain(live).map(|id| host_name(id)).collect();
        for link in links.iter().filter(|l| is_host_name(&l.name) && !known.contains(&l.name)) {
            tracing::info!(interface = link.name, "Deleting an interface that no sandbox owns");
            self.shared.network.delete_link(&link.name).await?;
        }
        Ok(())
    }
}

/// A name that only our interfaces have: the prefix and eleven hex digits.
fn is_host_name(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(PathBuf::from(socket), mode)?;
    Ok(listener)
}

/// The pod that CNI_ARGS name.
struct PodArgs {
    key: ObjectKey,
    uid: PodUid,
}

impl PodArgs {
    fn parse(args: &str) -> Result<Self, Error> {
        let all: BTreeMap<&str, &str> =
            args.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let get = |name: &str| {
            all.get(name).copied().filter(|value| !value.is_empty()).ok_or_else(|| {
                failure(CODE_INVALID, format!("CNI_ARGS has no {name}: the runtime must pass it"))
            })
        };
        Ok(Self {
            key: ObjectKey::new(get("K8S_POD_NAMESPACE")?, get("K8S_POD_NAME")?),
            uid: PodUid::new(get("K8S_POD_UID")?),
        })
    }
}

fn failure(code: u32, msg: impl Into<String>) -> Error {
    Error { code, msg: msg.into(), details: String::new() }
}

/// The cause behind an error; empty when there is none.
fn cause_of(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

fn network_failure(error: &NetworkError) -> Error {
    let details = cause_of(error);
    Error { code: CODE_FAILED, msg: format!("{error}: {details}"), details }
}

fn ledger_failure(error: &LedgerError) -> Error {
    let code = match error {
        LedgerError::Full(_) | LedgerError::NoRange => CODE_TRY_AGAIN,
        LedgerError::Write { .. } => CODE_FAILED,
    };
    Error { code, msg: error.to_string(), details: cause_of(error) }
}

/// The CNI result (specification 1.0, "Success").
fn result_of(request: &Request, plan: &InterfacePlan, attachment: &Attachment) -> Value {
    let version = request.config.get("cniVersion").and_then(Value::as_str).unwrap_or("1.0.0");
    let mac =
        |bytes: &[u8; 6]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    let mut ip = json!({
        "address": format!("{}/32", attachment.ip),
        "gateway": GATEWAY.to_string(),
        "interface": 1,
    });
    if version.starts_with("0.") {
        ip["version"] = json!("4");
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": plan.host_name, "mac": mac(&plan.host_mac) },
            { "name": plan.pod_name, "mac": mac(&plan.pod_mac), "sandbox": request.netns },
        ],
        "ips": [ip],
        "routes": [{ "dst": "0.0.0.0/0", "gw": GATEWAY.to_string() }],
        "dns": {},
    })
}
