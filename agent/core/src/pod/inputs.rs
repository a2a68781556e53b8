//! Objects and tokens of which it is not known yet whether they exist: a pod must neither fail for
//! want of them nor start without them (A124, A106).

use k8s_openapi::api::core::v1::{Container, Volume};

use super::{Input, References, tokens};

/// How long a pod waits for the API server before it says so.
pub const SILENT_MS: i64 = 5_000;

/// One line for each, naming the object; empty: everything is known.
pub fn unknown(input: &Input<'_>) -> Vec<String> {
    if input.world.known.is_none() {
        return Vec::new();
    }
    let mut unknown = objects(input, &References::of(input.pod));
    for request in tokens::requests(input.pod, input.key, input.uid).into_keys() {
        if !input.world.tokens.contains_key(&request) {
            let account = &request.service_account;
            unknown.push(format!("token of serviceaccount {}/{account}", input.key.namespace));
        }
    }
    unknown
}

/// As [`unknown`], of what the environment of one container is made from.
pub fn unknown_of_container(input: &Input<'_>, container: &Container) -> Vec<String> {
    objects(input, &References::of_container(container))
}

/// Whether what one volume is made from is not all known.
pub fn is_unknown(input: &Input<'_>, volume: &Volume) -> bool {
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    let mut tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    let lacks_token = tokens.any(|source| {
        let request = tokens::request(input.pod, input.key, input.uid, source);
        input.world.known.is_some() && !input.world.tokens.contains_key(&request)
    });
    lacks_token || !objects(input, &References::of_volume(volume)).is_empty()
}

fn objects(input: &Input<'_>, references: &References) -> Vec<String> {
    references
        .keys(&input.key.namespace)
        .filter(|(kind, key)| !key.name.is_empty() && !input.world.is_known(*kind, key))
        .map(|(kind, key)| format!("{kind:?} {key}").to_lowercase())
        .collect()
}
