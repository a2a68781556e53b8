//! Skeleton.
use super::action::VolumePlan;
pub fn digest(plan: &VolumePlan) -> String {
    format!("{plan:?}")
}
