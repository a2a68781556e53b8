//! TokenReview and SubjectAccessReview for whoever calls this node (A179, A180).
//!
//! Deliberately absent: caches and what follows from a verdict (`serve::kubelet`).

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;

use super::{Api, ApiError};

impl Api {
    /// Whose token it is; `None`: nobody's.
    ///
    /// # Errors
    /// The API server did not say. The token is in no error's text.
    pub async fn review_token(&self, token: &str) -> Result<Option<UserInfo>, ApiError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let reviews: kube::Api<TokenReview> = kube::Api::all(self.client.clone());
        let answer = self.call(reviews.create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated == Some(true) {
            return Ok(Some(status.user.unwrap_or_default()));
        }
        if let Some(error) = status.error.filter(|error| !error.is_empty()) {
            tracing::debug!(%error, "A token was not accepted");
        }
        Ok(None)
    }

    /// Whether the user may; fails closed.
    ///
    /// # Errors
    /// The API server did not say.
    pub async fn review_access(&self, spec: SubjectAccessReviewSpec) -> Result<bool, ApiError> {
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: kube::Api<SubjectAccessReview> = kube::Api::all(self.client.clone());
        let answer = self.call(reviews.create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }
}
