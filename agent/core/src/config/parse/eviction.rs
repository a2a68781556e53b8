//! Thresholds of pressure (A160, A161): they make allocatable smaller and set conditions. No pod is
//! evicted yet, and whoever sets one is told.

use std::collections::BTreeMap;

use super::reader::Reader;
use crate::config::{NodeConfig, Signal, Threshold, default_eviction_hard};
use crate::model::Quantity;

impl Reader {
    pub(super) fn eviction(&mut self, node: &mut NodeConfig) {
        self.millis(
            "evictionPressureTransitionPeriod",
            1..=86_400_000,
            &mut node.pressure_transition_ms,
        );
        let mut merge = false;
        self.flag("mergeDefaultEvictionSettings", &mut merge);
        let Some(texts) = self.mapping("evictionHard") else {
            return;
        };
        self.warning(
            "evictionHard",
            "makes allocatable smaller and sets the pressure conditions; no pod is evicted yet",
        );
        let mut found = if merge { default_eviction_hard() } else { BTreeMap::new() };
        for (name, text) in texts {
            let field = format!("evictionHard[{name}]");
            let signal = Signal::ALL.into_iter().find(|signal| signal.name() == name);
            match (signal, threshold(&text)) {
                (None, _) => self.warning(&field, "is not measured and has no effect"),
                (Some(signal), Ok(Some(limit))) => drop(found.insert(signal, limit)),
                // Switched off, as the kubelet reads it.
                (Some(signal), Ok(None)) => drop(found.remove(&signal)),
                (Some(_), Err(message)) => self.error(&field, message),
            }
        }
        node.eviction_hard = found;
    }
}

/// `None`: 0 % and 100 % stand for no threshold.
fn threshold(text: &str) -> Result<Option<Threshold>, String> {
    let Some(percent) = text.strip_suffix('%') else {
        let quantity = Quantity::parse(text)?;
        if quantity.milli < 0 {
            return Err(format!("{text:?} is negative"));
        }
        return Ok(Some(Threshold::Units(quantity.units())));
    };
    let bad = || format!("{text:?} is not a share between 0% and 100%");
    // Hundredths of a per cent of a per cent: exact for what people write.
    let share = Quantity::parse(percent).map_err(|_| bad())?.milli * 10;
    match i64::try_from(share) {
        Ok(0 | 1_000_000) => Ok(None),
        Ok(share @ 1..1_000_000) => Ok(Some(Threshold::Share(share))),
        _ => Err(bad()),
    }
}
