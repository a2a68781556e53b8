//! Image references: `[host[:port]/]path[:tag][@digest]`, and the pull policy that follows (A50).

/// When an image is pulled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The parts of a valid reference that decide something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference<'a> {
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// `Err` says what is wrong: reason InvalidImageName (A52).
pub fn parse(image: &str) -> Result<Reference<'_>, String> {
    let bad = |why: &str| Err(format!("couldn't parse image name {image:?}: {why}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest
        && !is_digest(digest)
    {
        return bad("invalid digest");
    }
    // A colon after the last slash starts the tag; before it, a port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return bad("invalid tag");
    }
    if name.len() > 255 {
        return bad("longer than 255 characters");
    }
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            if !is_host(host) {
                return bad("invalid registry host");
            }
            path
        }
        _ => name,
    };
    if !path.split('/').all(is_component) {
        return bad("invalid reference format (lower-case letters, digits and single separators)");
    }
    Ok(Reference { tag, digest })
}

/// A50: an explicit policy, else Always for `:latest` and for no tag at all.
pub fn policy(explicit: Option<&str>, reference: &Reference<'_>) -> PullPolicy {
    match explicit {
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Always") => PullPolicy::Always,
        _ if reference.digest.is_some() => PullPolicy::IfNotPresent,
        _ if reference.tag.is_none_or(|tag| tag == "latest") => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

fn is_component(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let separators = ["...", "___", "._", "_.", "-.", ".-", "_-", "-_", ".."];
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
        && !separators.iter().any(|pair| text.contains(pair))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let name = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
        }
    };
    name && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, hex)| {
        !kind.is_empty()
            && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a50_default_policies() {
        let check = |image: &str, explicit: Option<&str>, expect: PullPolicy| {
            assert_eq!(policy(explicit, &parse(image).unwrap()), expect, "{image}");
        };
        check("nginx", None, PullPolicy::Always);
        check("nginx:latest", None, PullPolicy::Always);
        check("nginx:1.27", None, PullPolicy::IfNotPresent);
        check("host:5000/nginx", None, PullPolicy::Always);
        check("host:5000/nginx:1", None, PullPolicy::IfNotPresent);
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        check(&digest, None, PullPolicy::IfNotPresent);
        check("nginx", Some("Never"), PullPolicy::Never);
        check("nginx:1.27", Some("Always"), PullPolicy::Always);
    }

    #[test]
    fn a52_invalid_names() {
        for image in [
            "",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "a//b",
            "nginx@sha256:x",
            "/nginx",
            "a..b",
            "-a",
            "ho st/a.b",
            "a\nb",
        ] {
            assert!(parse(image).is_err(), "{image:?}");
        }
        for image in [
            "a/b/c",
            "localhost/x:1",
            "registry.example.org:5000/a_b/c-d:v1.0",
            "a__b",
            "[::1]:5000/a",
            "x--y",
        ] {
            assert!(parse(image).is_ok(), "{image:?} {:?}", parse(image));
        }
    }
}
