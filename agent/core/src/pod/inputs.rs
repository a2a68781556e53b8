//! Objects and tokens of which it is not known yet whether they exist: a pod must neither fail for
//! want of them nor start without them (A124, A106).

use super::{Input, References, tokens};

/// How long a pod waits for the API server before it says so.
pub const SILENT_MS: i64 = 5_000;

/// One line for each, naming the object; empty: everything is known.
pub fn unknown(input: &Input<'_>) -> Vec<String> {
    if input.world.known.is_none() {
        return Vec::new();
    }
    let references = References::of(input.pod);
    let mut unknown: Vec<String> = references
        .keys(&input.key.namespace)
        .filter(|(kind, key)| !input.world.is_known(*kind, key))
        .map(|(kind, key)| format!("{kind:?} {key}").to_lowercase())
        .collect();
    for request in tokens::requests(input.pod, input.key, input.uid) {
        if !input.world.tokens.contains_key(&request) {
            let account = &request.service_account;
            unknown.push(format!("token of serviceaccount {}/{account}", input.key.namespace));
        }
    }
    unknown
}
