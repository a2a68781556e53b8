//! Skeleton: nothing to do.
use super::action::Decision;
use super::{Input, Orphan};
pub fn decide(input: &Input<'_>) -> Decision {
    Decision {
        actions: vec![],
        status: Default::default(),
        memory: input.memory.clone(),
        wake_at: None,
        why: vec![],
        probes: vec![],
    }
}
pub fn decide_orphan(orphan: &Orphan<'_>) -> Decision {
    Decision {
        actions: vec![],
        status: Default::default(),
        memory: orphan.memory.clone(),
        wake_at: None,
        why: vec![],
        probes: vec![],
    }
}
