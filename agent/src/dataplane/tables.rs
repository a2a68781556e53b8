//! The map store: ordered writes, and everything read back.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aya::maps::MapData;
use longshore_abi::{self as abi, DropReason, names};
use longshore_core::image::{KernelRows, MapOp};

use super::{ApplyError, DataplaneError};
use crate::sys::bpf::{Counters, Row, Table};

/// All maps that the daemon reads or writes.
pub struct Tables {
    services: Table<abi::ServiceKey, abi::ServiceValue>,
    backends: Table<u32, abi::Backend>,
    endpoints: Table<abi::Addr, abi::Endpoint>,
    cidrs: Table<abi::CidrKey, u64>,
    groups: Table<u64, abi::GroupHeader>,
    peers: Table<abi::PeerKey, abi::Mask>,
    ports: Table<abi::PortKey, abi::Mask>,
    ranges: Table<abi::RangeKey, abi::Mask>,
    flows_tcp: Table<abi::FlowKey, abi::FlowValue>,
    flows_any: Table<abi::FlowKey, abi::FlowValue>,
    drops: Counters,
}

/// What a walk over the flows found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OldFlows {
    /// Rows in both tables.
    pub rows: usize,
    pub expired: Vec<abi::FlowKey>,
}

/// Every map of the layout, in the order of `longshore-abi`.
pub const NAMES: [&str; 13] = [
    names::SERVICES,
    names::BACKENDS,
    names::SOCKETS,
    names::ENDPOINTS,
    names::CIDRS,
    names::GROUPS,
    names::PEERS,
    names::PORTS,
    names::RANGES,
    names::FLOWS_TCP,
    names::FLOWS_ANY,
    names::FRAGMENTS,
    names::DROPS,
];

impl Tables {
    /// # Errors
    /// A pin is missing or is another map.
    pub fn open(pins: &Path) -> Result<Self, DataplaneError> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, source)| DataplaneError::path("reading", path, source))?;
        Ok(Self {
            services: table(pins, names::SERVICES)?,
            backends: table(pins, names::BACKENDS)?,
            endpoints: table(pins, names::ENDPOINTS)?,
            cidrs: table(pins, names::CIDRS)?,
            groups: table(pins, names::GROUPS)?,
            peers: table(pins, names::PEERS)?,
            ports: table(pins, names::PORTS)?,
            ranges: table(pins, names::RANGES)?,
            flows_tcp: table(pins, names::FLOWS_TCP)?,
            flows_any: table(pins, names::FLOWS_ANY)?,
            drops: Counters::new(descriptor(&map(pins, names::DROPS)?, names::DROPS)?, cpus.get()),
        })
    }

    /// Writes in order; stops at the first failure.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply(&self, ops: &[MapOp]) -> Result<(), ApplyError> {
        for (index, op) in ops.iter().enumerate() {
            let (map, result) = self.write(op);
            if let Err(source) = result {
                let full = matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC));
                return Err(ApplyError { index, map, full, source });
            }
        }
        Ok(())
    }

    fn write(&self, op: &MapOp) -> (&'static str, io::Result<()>) {
        match op {
            MapOp::PutService(key, value) => (names::SERVICES, self.services.put(key, value)),
            MapOp::DelService(key) => (names::SERVICES, gone(self.services.delete(key))),
            MapOp::PutBackend(slot, value) => (names::BACKENDS, self.backends.put(slot, value)),
            MapOp::PutEndpoint(key, value) => (names::ENDPOINTS, self.endpoints.put(key, value)),
            MapOp::DelEndpoint(key) => (names::ENDPOINTS, gone(self.endpoints.delete(key))),
            MapOp::PutCidr(key, value) => (names::CIDRS, self.cidrs.put(key, value)),
            MapOp::DelCidr(key) => (names::CIDRS, gone(self.cidrs.delete(key))),
            MapOp::PutGroup(key, value) => (names::GROUPS, self.groups.put(key, value)),
            MapOp::DelGroup(key) => (names::GROUPS, gone(self.groups.delete(key))),
            MapOp::PutPeer(key, value) => (names::PEERS, self.peers.put(key, value)),
            MapOp::DelPeer(key) => (names::PEERS, gone(self.peers.delete(key))),
            MapOp::PutPort(key, value) => (names::PORTS, self.ports.put(key, value)),
            MapOp::DelPort(key) => (names::PORTS, gone(self.ports.delete(key))),
            MapOp::PutRange(key, value) => (names::RANGES, self.ranges.put(key, value)),
            MapOp::DelRange(key) => (names::RANGES, gone(self.ranges.delete(key))),
        }
    }

    /// # Errors
    /// The kernel's.
    pub fn rows(&self) -> Result<KernelRows, DataplaneError> {
        let slots = self
            .backends
            .rows()
            .map_err(|source| DataplaneError::Rows { name: names::BACKENDS, source })?;
        // Most of the slab is free: sorted out before it becomes a tree.
        let backends = slots.into_iter().filter(|(_, slot)| slot.generation != 0).collect();
        Ok(KernelRows {
            services: all(&self.services, names::SERVICES)?,
            backends,
            endpoints: all(&self.endpoints, names::ENDPOINTS)?,
            cidrs: all(&self.cidrs, names::CIDRS)?,
            groups: all(&self.groups, names::GROUPS)?,
            peers: all(&self.peers, names::PEERS)?,
            ports: all(&self.ports, names::PORTS)?,
            ranges: all(&self.ranges, names::RANGES)?,
        })
    }

    /// TCP and all others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flows(&self) -> Result<BTreeMap<abi::FlowKey, abi::FlowValue>, DataplaneError> {
        let mut flows = all(&self.flows_tcp, names::FLOWS_TCP)?;
        flows.extend(all(&self.flows_any, names::FLOWS_ANY)?);
        Ok(flows)
    }

    /// How many flows there are, and which are older than they may become.
    ///
    /// # Errors
    /// The kernel's.
    pub fn old_flows(&self, now_ns: u64) -> Result<OldFlows, DataplaneError> {
        let mut found = OldFlows::default();
        for (table, name) in
            [(&self.flows_tcp, names::FLOWS_TCP), (&self.flows_any, names::FLOWS_ANY)]
        {
            let look = |key: abi::FlowKey, flow: abi::FlowValue| {
                found.rows += 1;
                if flow.is_expired(key.proto, now_ns) {
                    found.expired.push(key);
                }
            };
            table.for_each(look).map_err(|source| DataplaneError::Rows { name, source })?;
        }
        Ok(found)
    }

    /// Removes those of `keys` that are old still; how many.
    ///
    /// A packet may make a row young between the look and the removal, and no call removes a row
    /// only if it is unchanged. So the row is taken out together with its value, and one that has
    /// become young is put back, unless a packet has made a newer one already. What remains is a
    /// packet in the microsecond between: after a silence of at least 30 s the flow's first answer
    /// is judged as if its question had been lost. Of TCP nothing is lost, as with any row
    /// (`longshore_packet::flow`); of others it is one packet, and the next question makes the row.
    /// A daemon that dies in that microsecond loses no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_flows(
        &self,
        keys: &[abi::FlowKey],
        now_ns: u64,
    ) -> Result<usize, DataplaneError> {
        let mut removed = 0;
        for key in keys {
            let (table, name) = if key.proto == abi::IPPROTO_TCP {
                (&self.flows_tcp, names::FLOWS_TCP)
            } else {
                (&self.flows_any, names::FLOWS_ANY)
            };
            let failed = |source| DataplaneError::Rows { name, source };
            match table.take(key).map_err(failed)? {
                Some(flow) if !flow.is_expired(key.proto, now_ns) => {
                    table.put_new(key, &flow).map_err(failed)?;
                }
                Some(_) => removed += 1,
                // The kernel needed the room.
                None => {}
            }
        }
        Ok(removed)
    }

    /// # Errors
    /// The kernel's.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, DataplaneError> {
        let read = |reason: DropReason| Ok((reason, self.drops.get(reason as u32)?));
        DropReason::ALL
            .into_iter()
            .map(read)
            .collect::<io::Result<_>>()
            .map_err(|source| DataplaneError::Rows { name: names::DROPS, source })
    }
}

/// That a row to delete is not there is what was wanted: a crash may have come in between.
fn gone(deleted: io::Result<bool>) -> io::Result<()> {
    deleted.map(|_| ())
}

fn all<K: Row + Ord, V: Row>(
    table: &Table<K, V>,
    name: &'static str,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    let rows = table.rows().map_err(|source| DataplaneError::Rows { name, source })?;
    Ok(rows.into_iter().collect())
}

fn map(pins: &Path, name: &'static str) -> Result<MapData, DataplaneError> {
    MapData::from_pin(pins.join(name)).map_err(|source| DataplaneError::map(name, source))
}

fn descriptor(map: &MapData, name: &'static str) -> Result<std::os::fd::OwnedFd, DataplaneError> {
    use std::os::fd::AsFd;
    map.fd().as_fd().try_clone_to_owned().map_err(|source| DataplaneError::Rows { name, source })
}

fn table<K: Row, V: Row>(pins: &Path, name: &'static str) -> Result<Table<K, V>, DataplaneError> {
    let map = map(pins, name)?;
    let info = map.info().map_err(|source| DataplaneError::map(name, source))?;
    Table::new(descriptor(&map, name)?, info.key_size(), info.value_size())
        .map_err(|source| DataplaneError::Rows { name, source })
}
