//! Sets of pods that groups ask for, and who is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::PodFacts;
use super::group::{self, GroupSpec, Wanted};
use super::index::SelectorIndex;
use super::rules::PortName;
use super::selector::{Namespaces, Selection, SelectionKey};
use crate::image::{Class, PeerTerm};
use crate::model::PodUid;
use crate::model::labels::Labels;

#[derive(Clone, Debug, Default)]
pub struct Selections {
    in_use: BTreeMap<SelectionKey, InUse>,
    index: SelectorIndex<SelectionKey>,
}

#[derive(Clone, Debug)]
struct InUse {
    selection: Selection,
    members: BTreeSet<PodUid>,
    /// Groups that ask for the pods as such (`None`) and by a port's name.
    users: BTreeMap<Option<PortName>, BTreeSet<Arc<GroupSpec>>>,
    /// For the names asked for: how many members call which number so.
    numbers: BTreeMap<PortName, BTreeMap<u16, usize>>,
}

fn bound_to(selection: &Selection) -> Option<&Arc<str>> {
    match &selection.namespaces {
        Namespaces::Named(name) => Some(name),
        Namespaces::Selected(_) => None,
    }
}

impl Selections {
    /// Selections that hold for a pod.
    pub fn matching(&self, facts: &PodFacts, namespace_labels: &Labels) -> BTreeSet<SelectionKey> {
        let namespace = &facts.key.namespace;
        let mut keys = self.index.candidates(namespace, &facts.labels);
        keys.retain(|key| {
            self.in_use.get(key).is_some_and(|state| {
                state.selection.in_namespace(namespace, namespace_labels)
                    && state.selection.pods.matches(&facts.labels)
            })
        });
        keys
    }

    /// Takes a pod from `before` (keys, ports) to `after`. Returns the groups for which a port's
    /// name now means other numbers.
    pub fn move_pod(
        &mut self,
        uid: &PodUid,
        before: (&BTreeSet<SelectionKey>, &BTreeMap<PortName, u16>),
        after: (&BTreeSet<SelectionKey>, &BTreeMap<PortName, u16>),
    ) -> BTreeSet<Arc<GroupSpec>> {
        let mut touched = BTreeSet::new();
        for key in before.0.union(after.0) {
            let Some(state) = self.in_use.get_mut(key) else { continue };
            if after.0.contains(key) {
                state.members.insert(uid.clone());
            } else {
                state.members.remove(uid);
            }
            for (name, numbers) in &mut state.numbers {
                let old = before.1.get(name).filter(|_| before.0.contains(key));
                let new = after.1.get(name).filter(|_| after.0.contains(key));
                if old == new {
                    continue;
                }
                let mut changed = false;
                if let Some(number) = new {
                    let count = numbers.entry(*number).or_default();
                    *count += 1;
                    changed |= *count == 1;
                }
                if let Some((number, count)) = old.and_then(|n| Some((n, numbers.get_mut(n)?))) {
                    *count -= 1;
                    if *count == 0 {
                        numbers.remove(number);
                        changed = true;
                    }
                }
                if changed {
                    let users = state.users.get(&Some(name.clone()));
                    touched.extend(users.into_iter().flatten().cloned());
                }
            }
        }
        touched
    }

    /// `user` asks for `wanted`. `find` lists the members of a selection that nobody asked for
    /// before; `ports` are a member's port numbers. Returns the pods whose class changes.
    pub fn acquire(
        &mut self,
        (selection, name): &Wanted,
        user: &Arc<GroupSpec>,
        find: impl FnOnce(&Selection) -> BTreeSet<PodUid>,
        ports: impl Fn(&PodUid) -> Option<BTreeMap<PortName, u16>>,
    ) -> Acquired {
        let mut acquired = Acquired::default();
        let state = self.in_use.entry(selection.key().clone()).or_insert_with(|| {
            self.index.insert(bound_to(selection), &selection.pods, selection.key());
            let members = find(selection);
            acquired.joined = members.clone();
            InUse {
                selection: selection.clone(),
                members,
                users: BTreeMap::new(),
                numbers: BTreeMap::new(),
            }
        });
        let users = state.users.entry(name.clone()).or_default();
        if users.is_empty() {
            acquired.reclassed = state.members.clone();
            if let Some(name) = name {
                let numbers = state.numbers.entry(name.clone()).or_default();
                for number in state.members.iter().filter_map(|uid| ports(uid)?.get(name).copied())
                {
                    *numbers.entry(number).or_default() += 1;
                }
            }
        }
        users.insert(user.clone());
        acquired
    }

    /// `user` no longer asks for `wanted`. Returns the pods whose class changes; `true`: the
    /// selection is gone.
    pub fn release(
        &mut self,
        (selection, name): &Wanted,
        user: &Arc<GroupSpec>,
    ) -> (BTreeSet<PodUid>, bool) {
        let Some(state) = self.in_use.get_mut(selection.key()) else {
            return (BTreeSet::new(), false);
        };
        let Some(users) = state.users.get_mut(name) else { return (BTreeSet::new(), false) };
        users.remove(user);
        if !users.is_empty() {
            return (BTreeSet::new(), false);
        }
        state.users.remove(name);
        if let Some(name) = name {
            state.numbers.remove(name);
        }
        let members = state.members.clone();
        let gone = state.users.is_empty();
        if gone {
            self.in_use.remove(selection.key());
            self.index.remove(bound_to(selection), &selection.pods, selection.key());
        }
        (members, gone)
    }

    /// What the members of `selection` call `name`.
    pub fn numbers(&self, selection: &Selection, name: &PortName) -> BTreeSet<u16> {
        let state = self.in_use.get(selection.key());
        let numbers = state.and_then(|state| state.numbers.get(name));
        numbers.into_iter().flat_map(|numbers| numbers.keys().copied()).collect()
    }

    /// The class of a pod that is in `keys` and has `ports`.
    pub fn class(&self, keys: &BTreeSet<SelectionKey>, ports: &BTreeMap<PortName, u16>) -> Class {
        let states = keys.iter().filter_map(|key| self.in_use.get(key));
        let terms = states.flat_map(|state| {
            state.users.keys().filter_map(|name| term(&state.selection, name, ports))
        });
        Class { terms: terms.collect() }
    }
}

/// The term that a pod with `ports` satisfies by being in `selection`.
pub fn term(
    selection: &Selection,
    name: &Option<PortName>,
    ports: &BTreeMap<PortName, u16>,
) -> Option<PeerTerm> {
    match name {
        None => Some(group::term(selection, None)),
        Some(name) => Some(group::term(selection, Some((name, *ports.get(name)?)))),
    }
}

/// What asking for a selection changed.
#[derive(Clone, Debug, Default)]
pub struct Acquired {
    /// Members of a selection that is new.
    pub joined: BTreeSet<PodUid>,
    /// Pods whose class has one more term.
    pub reclassed: BTreeSet<PodUid>,
}
