//! The Service half: frontends and their ranges of the slab.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use longshore_abi::{self as abi, service};

use super::plan::{Mirror, Phase, Plan};
use super::slab::{Slab, order_of};
use super::{QUARANTINE_MS, Refused};
use crate::image::{Frontend, KernelRows, MapOp, ServiceEntry, rows};
use crate::model::Time;

/// What a frontend means to the programs: everything but slab position and numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Content {
    /// Address, port (network order), flags and zone of each slot, local ones first.
    slots: Vec<(abi::Addr, u16, u8, u8)>,
    count_local: u16,
    flags: u32,
    affinity_s: u32,
}

/// What stands behind one frontend row.
#[derive(Clone, Debug)]
struct Published {
    content: Arc<Content>,
    /// First slot and size class; `None` without slots.
    range: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
pub(super) struct Services {
    slab: Slab,
    slots: u32,
    /// Only rows whose slots are what they say: others are written anew when they are wanted.
    published: OrdMap<abi::ServiceKey, Published>,
    /// Ranges that readers may still hold: when they are free, first slot, size class.
    quarantine: OrdSet<(Time, u32, u32)>,
    /// Above every service number in the kernel's rows.
    next_service: u32,
}

impl Services {
    pub fn new(slots: u32) -> Self {
        Self {
            slab: Slab::new(slots),
            slots,
            published: OrdMap::new(),
            quarantine: OrdSet::new(),
            next_service: 1,
        }
    }

    pub fn adopt(rows: &KernelRows, slots: u32) -> Self {
        let mut this = Self::new(slots);
        for (key, row) in &rows.services {
            if let Some(published) = this.adopt_row(rows, row) {
                this.published.insert(*key, published);
            }
        }
        let numbers = rows.services.values().map(|row| row.service);
        let stale = rows.backends.values().map(|slot| slot.service);
        this.next_service = numbers.chain(stale).max().unwrap_or(0).wrapping_add(1).max(1);
        this
    }

    /// `None` when a slot is not the row's own, or a range is not one that this allocator makes.
    fn adopt_row(&mut self, rows: &KernelRows, row: &abi::ServiceValue) -> Option<Published> {
        let count = u32::from(row.count);
        let mut slots = Vec::with_capacity(count as usize);
        for index in 0..count {
            let slot = rows.backends.get(&row.base.checked_add(index)?)?;
            if slot.service != row.service || slot.generation != row.generation {
                return None;
            }
            slots.push((slot.addr, slot.port, slot.flags, slot.zone));
        }
        let range = match count {
            0 => None,
            _ => {
                let order = order_of(count);
                let end = row.base.checked_add(1 << order)?;
                if end > self.slots || !self.slab.reserve(row.base, order) {
                    return None;
                }
                Some((row.base, order))
            }
        };
        let content = Content {
            slots,
            count_local: row.count_local,
            flags: row.flags,
            affinity_s: row.affinity_s,
        };
        Some(Published { content: Arc::new(content), range })
    }

    /// Publishes `entry` in a range of its own, by one row; nothing when it is published already.
    pub fn set(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        frontend: &Frontend,
        entry: &ServiceEntry,
        now: Time,
    ) -> Result<(), Refused> {
        let key = rows::service_key_of(frontend);
        let content = content_of(entry);
        let Ok(count) = u16::try_from(content.slots.len()) else {
            let count = content.slots.len();
            return Err(Refused::TooManyBackends { service: entry.service.clone(), count });
        };
        if self.published.get(&key).is_some_and(|known| *known.content == content) {
            return Ok(());
        }
        let (number, generation) = match mirror.services.get(&key) {
            Some(row) => (row.service, row.generation.wrapping_add(1).max(1)),
            None => (self.take_number(), 1),
        };
        let range = self.allocate(count)?;
        let base = range.map_or(0, |(base, _)| base);
        for (index, (addr, port, flags, zone)) in (base..).zip(&content.slots) {
            let slot = abi::Backend {
                addr: *addr,
                port: *port,
                flags: *flags,
                zone: *zone,
                service: number,
                generation,
                reserved: 0,
            };
            plan.op(Phase::Parts, MapOp::PutBackend(index, slot));
        }
        let row = abi::ServiceValue {
            base,
            generation,
            service: number,
            count,
            count_local: content.count_local,
            flags: content.flags,
            affinity_s: content.affinity_s,
            reserved: [0; 2],
        };
        mirror.put_service(plan, key, row);
        let published = Published { content: Arc::new(content), range };
        let old = self.published.insert(key, published);
        self.leave(old, now);
        Ok(())
    }

    /// Takes the frontend away; its sockets keep their backend.
    pub fn remove(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        key: abi::ServiceKey,
        now: Time,
    ) {
        if mirror.services.remove(&key).is_some() {
            plan.op(Phase::Delete, MapOp::DelService(key));
        }
        let old = self.published.remove(&key);
        self.leave(old, now);
    }

    fn leave(&mut self, old: Option<Published>, now: Time) {
        if let Some((base, order)) = old.and_then(|published| published.range) {
            self.quarantine.insert((now.plus_ms(QUARANTINE_MS), base, order));
        }
    }

    fn allocate(&mut self, count: u16) -> Result<Option<(u32, u32)>, Refused> {
        if count == 0 {
            return Ok(None);
        }
        let order = order_of(count.into());
        match self.slab.allocate(order) {
            Some(base) => Ok(Some((base, order))),
            None => Err(Refused::SlabFull {
                needed: 1 << order,
                max: self.slots,
                retry_at: self.wake_at(),
            }),
        }
    }

    /// Numbers come back after four thousand million new frontends: no reader is that slow.
    fn take_number(&mut self) -> u32 {
        let number = self.next_service;
        self.next_service = number.wrapping_add(1).max(1);
        number
    }

    /// Frees ranges that no reader can hold any more.
    pub fn tick(&mut self, now: Time) {
        while let Some((due, base, order)) = self.quarantine.get_min().copied() {
            if due > now {
                break;
            }
            self.quarantine.remove(&(due, base, order));
            self.slab.release(base, order);
        }
    }

    pub fn wake_at(&self) -> Option<Time> {
        self.quarantine.get_min().map(|(due, _, _)| *due)
    }
}

fn content_of(entry: &ServiceEntry) -> Content {
    let slots: Vec<_> = entry
        .backends
        .iter()
        .map(|backend| (rows::addr_of(backend.addr), backend.port.to_be(), 0, 0))
        .collect();
    // At most as many as slots, which the caller bounds.
    let locals = entry.backends.iter().filter(|backend| backend.local).count();
    let count_local = u16::try_from(locals).unwrap_or(u16::MAX);
    let mut flags = 0;
    if entry.local_only {
        flags |= service::FLAG_LOCAL_ONLY;
        if count_local == 0 && !slots.is_empty() {
            flags |= service::FLAG_REMOTE_EXISTS;
        }
    }
    Content { slots, count_local, flags, affinity_s: entry.affinity_s.unwrap_or(0) }
}
