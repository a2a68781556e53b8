//! Free slots of the backend slab: ranges in size classes of powers of two, first fit.
//!
//! A range's size class follows from its count alone, so the allocator is rebuilt from the service
//! rows after a restart and never stored.

use imbl::{OrdSet, Vector};

/// Slots are the caller's until [`release`](Slab::release); a clone shares everything.
#[derive(Clone, Debug)]
pub(super) struct Slab {
    /// By order: first slots of free ranges of `1 << order`, aligned to their size.
    free: Vector<OrdSet<u32>>,
}

/// The size class of `count` slots: `1 << order` is the smallest power of two that holds them.
pub(super) fn order_of(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

impl Slab {
    pub fn new(slots: u32) -> Self {
        let mut slab = Self { free: (0..u32::BITS).map(|_| OrdSet::new()).collect() };
        let mut base = 0;
        while base < slots {
            let fits = (slots - base).ilog2();
            let order = if base == 0 { fits } else { fits.min(base.trailing_zeros()) };
            slab.free[order as usize].insert(base);
            base += 1 << order;
        }
        slab
    }

    /// The lowest range of the smallest class that has one.
    pub fn allocate(&mut self, order: u32) -> Option<u32> {
        let from = (order..u32::BITS).find(|o| !self.free[*o as usize].is_empty())?;
        let base = *self.free[from as usize].get_min()?;
        self.split(base, from, base, order);
        Some(base)
    }

    /// Takes exactly this range; false (and nothing taken) when some of it is not free.
    pub fn reserve(&mut self, base: u32, order: u32) -> bool {
        if order >= u32::BITS || base & ((1 << order) - 1) != 0 {
            return false;
        }
        for from in order..u32::BITS {
            let start = base & !((1u32 << from) - 1);
            if self.free[from as usize].contains(&start) {
                self.split(start, from, base, order);
                return true;
            }
        }
        false
    }

    /// Takes `want` of class `order` out of the free range `start` of class `from`.
    fn split(&mut self, start: u32, from: u32, want: u32, order: u32) {
        self.free[from as usize].remove(&start);
        let mut start = start;
        for smaller in (order..from).rev() {
            let upper = start + (1 << smaller);
            let rest = if want < upper { upper } else { std::mem::replace(&mut start, upper) };
            self.free[smaller as usize].insert(rest);
        }
    }

    /// Gives a range back, and joins it with its free buddy.
    pub fn release(&mut self, base: u32, order: u32) {
        let (mut base, mut order) = (base, order);
        while order + 1 < u32::BITS {
            let buddy = base ^ (1 << order);
            if self.free[order as usize].remove(&buddy).is_none() {
                break;
            }
            base = base.min(buddy);
            order += 1;
        }
        self.free[order as usize].insert(base);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn size_classes_are_powers_of_two() {
        for (count, order) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1000, 10)] {
            assert_eq!(order_of(count), order, "{count}");
        }
    }

    #[test]
    fn a_slab_of_any_size_hands_out_every_slot() {
        for slots in [0u32, 1, 3, 7, 8, 100] {
            let mut slab = Slab::new(slots);
            let mut got: Vec<u32> = std::iter::from_fn(|| slab.allocate(0)).collect();
            got.sort_unstable();
            assert_eq!(got, (0..slots).collect::<Vec<_>>(), "{slots}");
        }
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_join_again(
            steps in proptest::collection::vec((0u32..5, any::<bool>()), 1..80),
        ) {
            let mut slab = Slab::new(100);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (order, take) in steps {
                if take || held.is_empty() {
                    if let Some(base) = slab.allocate(order) {
                        prop_assert!(base + (1 << order) <= 100);
                        for (other, size) in &held {
                            let apart = base + (1 << order) <= *other || other + (1 << size) <= base;
                            prop_assert!(apart);
                        }
                        held.push((base, order));
                    }
                } else {
                    let (base, order) = held.remove(order as usize % held.len());
                    slab.release(base, order);
                }
            }
            // A restart that knows only what is held comes to the same free ranges.
            let mut adopted = Slab::new(100);
            for (base, order) in &held {
                prop_assert!(adopted.reserve(*base, *order));
            }
            prop_assert_eq!(&adopted.free, &slab.free);
        }
    }
}
