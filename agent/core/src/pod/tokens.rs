//! Service account tokens of a pod: which it asks for, and when one is due again (A106).
//!
//! Deliberately absent: the TokenRequest call.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use serde_json::Value;

use super::paths;
use crate::model::{ObjectKey, PodUid, Time, Token, TokenRequest};

/// What the API server takes when a source does not say, and the least that it gives.
const EXPIRATION_S: i64 = 3600;
const EXPIRATION_LEAST_S: i64 = 600;
/// No token is used for longer, whatever its lifetime.
const AGE_MAX_MS: i64 = 24 * 3600 * 1000;

/// Every serviceAccountToken source of the pod's projected volumes, once, and the file that it
/// becomes, below the pod's directory; `None`: its name is no path.
pub fn requests(
    pod: &Pod,
    key: &ObjectKey,
    uid: &PodUid,
) -> BTreeMap<TokenRequest, Option<String>> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut all = BTreeMap::new();
    for volume in volumes {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let is_path = paths::is_path_name(&volume.name) && paths::is_item_path(&source.path);
            let file = is_path.then(|| {
                format!("{}/{}", paths::volume("", "projected", &volume.name), source.path)
            });
            all.entry(request(pod, key, uid, source)).or_insert(file);
        }
    }
    all
}

/// The token that a daemon before this one put into the pod's file: with it a container may start
/// again while the API server is away (I10), and a restart asks for nothing (I14). `None`: not one
/// for this pod. `wall`: the time by the wall clock, which the token speaks of. That it is genuine
/// does not matter: it goes back to the file that it comes from.
pub fn adopt(text: &str, request: &TokenRequest, now: Time, wall: Time) -> Option<Token> {
    let payload = text.trim().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let own = &claims["kubernetes.io"];
    let same = own["pod"]["uid"] == request.pod_uid.as_str()
        && own["serviceaccount"]["name"] == request.service_account.as_str();
    let audience = request.audience.as_str();
    let meant = audience.is_empty()
        || claims["aud"].as_array().is_some_and(|all| all.iter().any(|one| one == audience));
    if !same || !meant {
        return None;
    }
    let (issued_s, expires_s) = (claims["iat"].as_i64()?, claims["exp"].as_i64()?);
    let age_ms = wall.unix_ms().saturating_sub(issued_s.saturating_mul(1000)).max(0);
    // The API server may let one live longer than was asked for; it must be renewed all the same.
    let lifetime_s = expires_s.saturating_sub(issued_s).clamp(0, request.expiration_s);
    let issued_at = now.plus_ms(-age_ms);
    Some(Token { text: text.to_owned(), issued_at, expires_at: issued_at.plus_s(lifetime_s) })
}

/// What one source of `pod` asks for.
pub fn request(
    pod: &Pod,
    key: &ObjectKey,
    uid: &PodUid,
    source: &ServiceAccountTokenProjection,
) -> TokenRequest {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    TokenRequest {
        pod_uid: uid.clone(),
        pod: key.clone(),
        service_account: account.filter(|name| !name.is_empty()).unwrap_or("default").to_owned(),
        audience: source.audience.clone().unwrap_or_default(),
        expiration_s: source.expiration_seconds.unwrap_or(EXPIRATION_S).max(EXPIRATION_LEAST_S),
    }
}

/// When to ask again: after 80 % of the lifetime, or 24 h if that is earlier; up to `jitter_ms`
/// sooner, so that the pods of a node do not ask all at once.
pub fn refresh_at(token: &Token, jitter_ms: i64) -> Time {
    let lifetime_ms = token.expires_at.since_ms(token.issued_at).max(0);
    let age_ms = (lifetime_ms / 5 * 4).min(AGE_MAX_MS);
    token.issued_at.plus_ms((age_ms - jitter_ms.max(0)).max(0))
}

/// When a token is asked for, by two clocks, whichever comes first (F32): a machine that slept has
/// only a wall clock that knows of it, and a wall clock that was set back must not keep a token
/// beyond its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// By the clock that never jumps.
    pub steady: Time,
    /// By the wall clock; `None`: it does not matter.
    pub wall: Option<Time>,
}

impl Due {
    pub fn at(steady: Time) -> Self {
        Self { steady, wall: None }
    }

    /// Of a token that was asked for at `wall`; not within `least_ms` from `now`, so that one that
    /// is over at once is not asked for in a circle.
    pub fn again(token: &Token, jitter_ms: i64, now: Time, wall: Time, least_ms: i64) -> Self {
        let steady = refresh_at(token, jitter_ms).max(now.plus_ms(least_ms));
        let wall = wall.plus_ms(steady.since_ms(token.issued_at));
        Self { steady, wall: Some(wall) }
    }

    pub fn has_come(&self, now: Time, wall: Time) -> bool {
        self.steady <= now || self.wall.is_some_and(|at| at <= wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing;

    #[test]
    fn i10_i14_a_token_on_disk_is_taken_over_if_it_is_this_pods() {
        let request = TokenRequest {
            pod_uid: PodUid::new("uid-1"),
            pod: ObjectKey::new("default", "web"),
            service_account: "robot".into(),
            audience: String::new(),
            expiration_s: 3607,
        };
        let token = |change: fn(&mut Value)| {
            let mut claims = serde_json::json!({"aud": ["api"], "iat": 1_000, "exp": 31_537_000,
                "kubernetes.io": {"pod": {"uid": "uid-1"}, "serviceaccount": {"name": "robot"}}});
            change(&mut claims);
            format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()))
        };
        // The steady clock is an hour behind the wall clock.
        let (now, wall) = (Time(5_000_000), Time(5_000_000 + 3_600_000));
        let taken = |text: &str, request: &TokenRequest| adopt(text, request, now, wall);
        let found = taken(&token(|_| {}), &request).unwrap();
        assert_eq!(found.issued_at, Time(1_000_000 - 3_600_000));
        assert_eq!(found.expires_at, found.issued_at.plus_s(3607));
        assert!(Due::again(&found, 0, now, wall, 0).has_come(now, wall));
        for other in [
            |claims: &mut Value| claims["kubernetes.io"]["pod"]["uid"] = "uid-2".into(),
            |claims: &mut Value| claims["kubernetes.io"]["serviceaccount"]["name"] = "x".into(),
            |claims: &mut Value| claims["iat"] = Value::Null,
        ] {
            assert_eq!(taken(&token(other), &request), None);
        }
        for text in ["", "a", "a.b", "a.!.c", "a.e30.c", "..", &"x".repeat(100_000)] {
            assert_eq!(taken(text, &request), None, "{text:.9}");
        }
        let vault = TokenRequest { audience: "vault".into(), ..request };
        assert_eq!(taken(&token(|_| {}), &vault), None);
        assert!(
            taken(&token(|claims| claims["aud"] = serde_json::json!(["vault"])), &vault).is_some()
        );
    }

    #[test]
    fn a106_requests_have_the_pods_account_and_at_least_ten_minutes() {
        let check = |source: &str, account: &str, expect: (&str, &str, i64)| {
            let spec = format!(
                "{{{account}containers: [], volumes: [{{name: v, projected: {{sources: [{{serviceAccountToken: {source}}}]}}}}]}}"
            );
            let found = requests(
                &testing::pod(&spec),
                &ObjectKey::new("default", "web"),
                &PodUid::new("uid-1"),
            );
            let [(one, file)] = &found.into_iter().collect::<Vec<_>>()[..] else {
                panic!("{spec}")
            };
            assert_eq!(file.as_deref(), Some("/volumes/kubernetes.io~projected/v/t"));
            assert_eq!((&*one.service_account, &*one.audience, one.expiration_s), expect, "{spec}");
        };
        check("{path: t}", "", ("default", "", 3600));
        let own = "serviceAccountName: robot, ";
        check("{path: t, audience: vault, expirationSeconds: 7200}", own, ("robot", "vault", 7200));
        check("{path: t, expirationSeconds: 10}", "", ("default", "", 600));
    }

    #[test]
    fn a106_refreshed_at_80_percent_or_24_hours() {
        let check = |lifetime_s: i64, jitter_ms: i64, expect_s: i64| {
            let issued_at = Time(1_000_000);
            let token =
                Token { text: "t".into(), issued_at, expires_at: issued_at.plus_s(lifetime_s) };
            assert_eq!(refresh_at(&token, jitter_ms).since_ms(issued_at), expect_s * 1000);
        };
        check(3600, 0, 2880);
        check(3600, 10_000, 2870);
        check(600, 0, 480);
        check(365 * 86_400, 0, 86_400);
        check(0, 10_000, 0);
    }

    #[test]
    fn f32_a106_a_token_is_due_by_whichever_clock_comes_first() {
        // The wall clock is an hour ahead when the token is asked for.
        let (issued_at, wall) = (Time(1_000_000), Time(4_600_000));
        let token = Token { text: "t".into(), issued_at, expires_at: issued_at.plus_s(3600) };
        let due = Due::again(&token, 0, issued_at, wall, 30_000);
        let check = |steady_s: i64, wall_s: i64, expect: bool| {
            let has_come = due.has_come(issued_at.plus_s(steady_s), wall.plus_s(wall_s));
            assert_eq!(has_come, expect, "{steady_s} {wall_s}");
        };
        check(2879, 2879, false);
        check(2880, 2880, true);
        // Asleep, or set forward.
        check(10, 2880, true);
        // Set back by a day.
        check(2879, -86_400, false);
        check(2880, -86_400, true);
        // One that is over at once has to wait a little.
        let over = Token { text: "t".into(), issued_at, expires_at: issued_at };
        let due = Due::again(&over, 0, issued_at, wall, 30_000);
        assert!(!due.has_come(issued_at.plus_s(29), wall.plus_s(29)));
        assert!(due.has_come(issued_at.plus_s(30), wall.plus_s(30)));
    }
}
