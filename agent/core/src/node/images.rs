//! The images of a node's status (A14).

use k8s_openapi::api::core::v1::ContainerImage;

use crate::model::ImageFacts;

/// More names of one image are not published.
const NAMES_MAX: usize = 5;

/// Largest first, at most `max` (`None`: all). Images of one size are in the order of their IDs, so
/// that the same images are the same status.
pub(super) fn images(known: &[ImageFacts], max: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&ImageFacts> = known.iter().collect();
    sorted.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    sorted.truncate(max.unwrap_or(usize::MAX));
    sorted
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.digests.iter().chain(&image.tags).take(NAMES_MAX).cloned().collect()),
            size_bytes: Some(image.size_bytes),
        })
        .collect()
}
