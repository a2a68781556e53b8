//! Credentials for an image's registry from the pod's imagePullSecrets (A53).
//!
//! Deliberately absent: the node's own docker config, credential provider plugins, and whether an
//! image that is there may be used without them (A54).

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use longshore_proto::cri::AuthConfig;
use serde::Deserialize;

use super::volumes::secret_data;
use crate::model::{ObjectKey, World};

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Deserialize, Clone)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// What to try in turn for `image`, the most specific registry first; empty: pull without. The
/// second list says which Secrets could not be used and why.
pub fn of(
    world: &World,
    pod: &Pod,
    namespace: &str,
    image: &str,
) -> (Vec<AuthConfig>, Vec<String>) {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    let mut problems = Vec::new();
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for secret in named {
        let key = ObjectKey::new(namespace, secret.name.as_str());
        let entries = match world.secrets.get(&key) {
            None => Err("not found".to_owned()),
            Some(secret) => entries(secret),
        };
        match entries {
            Err(why) => problems.push(format!("secret {key}: {why}")),
            Ok(entries) => found.extend(entries.into_iter().filter_map(|(registry, entry)| {
                let length = matches(&registry, image)?;
                Some((length, auth_config(&registry, entry)))
            })),
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    (found.into_iter().map(|(_, auth)| auth).collect(), problems)
}

fn entries(secret: &Secret) -> Result<Vec<(String, Entry)>, String> {
    let data = secret_data(secret);
    let read = |error: serde_json::Error| {
        // serde's text may quote the value.
        format!("is no docker configuration (line {}, column {})", error.line(), error.column())
    };
    if let Some(text) = data.get(".dockerconfigjson") {
        let config: Config = serde_json::from_slice(text).map_err(read)?;
        return Ok(config.auths.into_iter().collect());
    }
    if let Some(text) = data.get(".dockercfg") {
        let config: std::collections::BTreeMap<String, Entry> =
            serde_json::from_slice(text).map_err(read)?;
        return Ok(config.into_iter().collect());
    }
    Err("has neither .dockerconfigjson nor .dockercfg".into())
}

fn auth_config(registry: &str, entry: Entry) -> AuthConfig {
    let (mut username, mut password) = (entry.username, entry.password);
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.auth.trim()).ok();
    if let Some(text) = decoded.and_then(|bytes| String::from_utf8(bytes).ok())
        && let Some((user, secret)) = text.split_once(':')
    {
        (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    AuthConfig {
        username,
        password,
        identity_token: entry.identity_token,
        server_address: registry.to_owned(),
        ..AuthConfig::default()
    }
}

/// How specific the entry for `registry` is for `image`; `None`: it is for others.
fn matches(registry: &str, image: &str) -> Option<usize> {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/');
    // The old addresses of the hub's API are no paths of images.
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let (image_host, image_path) = split(image);
    let hosts_match = match (hub(host), hub(image_host)) {
        (true, true) => true,
        _ => host_matches(host, image_host),
    };
    let path_matches = image_path.strip_prefix(path).is_some_and(|rest| {
        path.is_empty() || rest.is_empty() || rest.starts_with(['/', ':', '@'])
    });
    (hosts_match && path_matches).then_some(bare.len())
}

fn hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Host and path of an image; without a host it is the hub's.
fn split(image: &str) -> (&str, &str) {
    match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", image),
    }
}

/// Labels one by one; `*` stands for any text inside a label. Ports are compared as written.
fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |text: &str| text.split_once(':').map(|(_, port)| port.to_owned());
    if port(pattern) != port(host) {
        return false;
    }
    let labels = |text: &str| {
        let name = text.split(':').next().unwrap_or_default();
        name.split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (pattern, host) = (labels(pattern), labels(host));
    pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, label)| label_matches(pattern, label))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut left) = label.strip_prefix(start) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let Some((end, middle)) = parts.split_last() else { return true };
    for part in middle {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    #[test]
    fn a53_registries_match_by_host_label_port_and_path() {
        for (registry, image, expect) in [
            ("registry.example.org", "registry.example.org/a:1", true),
            ("https://registry.example.org/v2/", "registry.example.org/a", true),
            ("registry.example.org:5000", "registry.example.org:5000/a", true),
            ("registry.example.org", "registry.example.org:5000/a", false),
            ("*.example.org", "registry.example.org/a", true),
            ("*.example.org", "a.b.example.org/a", false),
            ("reg*y.example.org", "registry.example.org/a", true),
            ("registry.example.org/team", "registry.example.org/team/a", true),
            ("registry.example.org/team", "registry.example.org/teams/a", false),
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "library/busybox:1", true),
            ("registry.example.org", "busybox", false),
        ] {
            assert_eq!(matches(registry, image).is_some(), expect, "{registry} for {image}");
        }
    }

    #[test]
    fn a53_the_most_specific_entry_comes_first_and_auth_is_decoded() {
        let config = r#"{"auths": {"r.example": {"username": "u", "password": "p"},
            "r.example/team": {"auth": "dGVhbTpzM2NyZXQ="}}}"#;
        let spec = "{containers: [], imagePullSecrets: [{name: pull}, {name: none}]}";
        let case = Case::spec(spec).secret("pull", &[(".dockerconfigjson", config)]);
        let (found, problems) = of(&case.world, &case.pod, "default", "r.example/team/a:1");
        let users: Vec<_> = found.iter().map(|a| (&*a.username, &*a.password)).collect();
        assert_eq!(users, [("team", "s3cret"), ("u", "p")]);
        assert_eq!(problems, ["secret default/none: not found"]);
        let (other, _) = of(&case.world, &case.pod, "default", "busybox");
        assert_eq!(other, []);
    }

    #[test]
    fn i13_a_secret_that_is_no_configuration_is_not_quoted() {
        let case = Case::spec("{containers: [], imagePullSecrets: [{name: pull}]}")
            .secret("pull", &[(".dockercfg", "\"canary\"")]);
        let (found, problems) = of(&case.world, &case.pod, "default", "x");
        assert_eq!(found, []);
        assert!(!problems[0].contains("canary"), "{problems:?}");
    }
}
