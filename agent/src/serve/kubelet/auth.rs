//! Who calls and whether he may (A179, A180). Fails closed: no word from the API server is a no.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};
use longshore_core::model::Time;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use super::questions::Questions;
use super::route::Needs;
use super::server::Wall;
use super::websocket;
use super::{Authentication, Authorization, Reviews, Settings};
use crate::clock;
use crate::tls::Serving;

/// Questions of one kind to the API server at once; more wait, and then look into the cache again.
const REVIEWS_MAX: usize = 16;
/// More that wait are refused at once.
const QUEUE_MAX: usize = 64;
/// For waiting and asking.
const PATIENCE: Duration = Duration::from_secs(10);
/// No token is longer.
const TOKEN_BYTES_MAX: usize = 64 << 10;
const AUTHENTICATED: &str = "system:authenticated";

/// A caller.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Identity {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    fn known(user: String, groups: Vec<String>) -> Self {
        let mut identity = Self { user, groups, ..Self::default() };
        if !identity.groups.iter().any(|group| group == AUTHENTICATED) {
            identity.groups.push(AUTHENTICATED.to_owned());
        }
        identity
    }

    fn anonymous() -> Self {
        Self {
            user: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    fn of_review(info: UserInfo) -> Self {
        Self {
            uid: info.uid.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
            ..Self::known(info.username.unwrap_or_default(), info.groups.unwrap_or_default())
        }
    }
}

/// A no, as HTTP says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub text: String,
}

type Access = (Identity, &'static str, &'static str);

/// Decides about every request of the node port.
pub struct Gate {
    node_name: String,
    authentication: Authentication,
    authorization: Authorization,
    tls: Arc<Serving>,
    wall: Wall,
    reviews: Arc<dyn Reviews>,
    tokens: Mutex<Cache<[u8; 32], Option<Identity>>>,
    accesses: Mutex<Cache<Access, bool>>,
    who: Questions,
    may: Questions,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn after(now: Time, time: Duration) -> Time {
    now.plus_ms(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

impl Gate {
    pub fn new(
        settings: &Settings,
        tls: Arc<Serving>,
        wall: Wall,
        reviews: Arc<dyn Reviews>,
    ) -> Self {
        if settings.authorization == Authorization::AlwaysAllow {
            tracing::warn!(
                "authorization.mode is AlwaysAllow: whoever is authenticated may run commands in every pod of this node"
            );
        }
        Self {
            node_name: settings.node_name.clone(),
            authentication: settings.authentication.clone(),
            authorization: settings.authorization,
            tls,
            wall,
            reviews,
            tokens: Mutex::default(),
            accesses: Mutex::default(),
            who: Questions::new("whose a token is", REVIEWS_MAX, QUEUE_MAX, PATIENCE),
            may: Questions::new("who may", REVIEWS_MAX, QUEUE_MAX, PATIENCE),
        }
    }

    /// A certificate, else a token, else nobody where that is allowed; who shows something wrong is
    /// not let in as nobody.
    ///
    /// # Errors
    /// 401.
    pub async fn authenticate(
        &self,
        chain: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<Identity, Refusal> {
        let mut wrong = false;
        match self.tls.identify(chain, (self.wall)().unix_ms() / 1000) {
            Ok(Some(subject)) => return Ok(Identity::known(subject.user, subject.groups)),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "A client certificate was not accepted");
                wrong = true;
            }
        }
        let token = bearer(headers).map(str::to_owned).or_else(|| websocket::token(headers));
        if let (Some(ttl), Some(token)) = (self.authentication.webhook, token) {
            match self.token(&token, ttl).await {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => wrong = true,
                Err(error) => {
                    tracing::debug!(error, "Nobody says whose a token is");
                    wrong = true;
                }
            }
        }
        if self.authentication.anonymous && !wrong {
            return Ok(Identity::anonymous());
        }
        Err(Refusal { status: StatusCode::UNAUTHORIZED, text: "Unauthorized".to_owned() })
    }

    async fn token(&self, token: &str, ttl: Duration) -> Result<Option<Identity>, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Ok(None);
        }
        // The cache must not be a place where tokens can be read.
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let kept = || lock(&self.tokens).get(&key, clock::now());
        let ask = async {
            let info = self.reviews.token(token.to_owned()).await?;
            let known = info.map(Identity::of_review);
            let verdict = known.filter(|identity| !identity.user.is_empty());
            let now = clock::now();
            lock(&self.tokens).put(key, verdict.clone(), after(now, ttl), now);
            Ok(verdict)
        };
        self.who.ask(kept, ask).await
    }

    /// # Errors
    /// 403, or 500 when nobody could say.
    pub async fn authorize(&self, who: &Identity, needs: &Needs) -> Result<(), Refusal> {
        let Authorization::Webhook { allowed, denied } = self.authorization else { return Ok(()) };
        let about = || {
            format!(
                "(user={}, verb={}, resource=nodes, subresource(s)=[{}])",
                who.user,
                needs.verb,
                needs.subresources.join(" ")
            )
        };
        for subresource in needs.subresources {
            let access = (who.clone(), needs.verb, *subresource);
            match self.access(access, allowed, denied).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(error, user = who.user, "Nobody says whether a caller may");
                    return Err(Refusal {
                        status: StatusCode::INTERNAL_SERVER_ERROR,
                        text: format!("Authorization error {}", about()),
                    });
                }
            }
        }
        let text = format!("Forbidden {}", about());
        Err(Refusal { status: StatusCode::FORBIDDEN, text })
    }

    async fn access(
        &self,
        access: Access,
        allowed: Duration,
        denied: Duration,
    ) -> Result<bool, String> {
        let kept = || lock(&self.accesses).get(&access, clock::now());
        let ask = async {
            let verdict = self.reviews.access(self.question(&access)).await?;
            let now = clock::now();
            let until = after(now, if verdict { allowed } else { denied });
            lock(&self.accesses).put(access.clone(), verdict, until, now);
            Ok(verdict)
        };
        self.may.ask(kept, ask).await
    }

    fn question(&self, (who, verb, subresource): &Access) -> SubjectAccessReviewSpec {
        SubjectAccessReviewSpec {
            user: Some(who.user.clone()),
            uid: Some(who.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some((*verb).to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some((*subresource).to_owned()),
                name: Some(self.node_name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        }
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
