//! `io.kubernetes.container.hash`: changes when the name or the image of a container does (A73).

use k8s_openapi::api::core::v1::Container;

/// Hex text of the kubelet's number: FNV-1a 32 over the printed bytes of the JSON of name and image.
pub fn of(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let json = serde_json::json!({"image": image, "name": container.name}).to_string();
    // Go's dump of a byte slice: its type, then the numbers.
    let bytes: Vec<String> = json.bytes().map(|b| b.to_string()).collect();
    let text = format!("([]uint8)[{}]", bytes.join(" "));
    format!("{:x}", fnv1a(text.as_bytes()))
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a73_the_hash_is_of_name_and_image_only() {
        let container = |name: &str, image: &str| Container {
            name: name.into(),
            image: Some(image.into()),
            ..Container::default()
        };
        let base = of(&container("a", "x:1"));
        assert_eq!(base, of(&Container { tty: Some(true), ..container("a", "x:1") }));
        assert_ne!(base, of(&container("a", "x:2")));
        assert_ne!(base, of(&container("b", "x:1")));
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        // What the kubelet writes for the same container since 1.31.
        assert_eq!(of(&container("test_container", "foo/image:v1")), "8e45cbd0");
    }
}
