//! TokenRequest: service account tokens bound to a pod (A106).

use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use longshore_core::model::{Token, TokenRequest};

use super::{Api, ApiError};
use crate::clock;

impl Api {
    /// A token for the pod of `request`. Its times are by this node's clock: the API server's may
    /// differ, its lifetime does not.
    ///
    /// # Errors
    /// The API server's.
    pub async fn request_token(&self, request: &TokenRequest) -> Result<Token, ApiError> {
        let accounts: kube::Api<ServiceAccount> =
            kube::Api::namespaced(self.client(), &request.pod.namespace);
        let audience = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
        let asked = ApiTokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(request.pod.name.to_string()),
                    uid: Some(request.pod_uid.to_string()),
                }),
                expiration_seconds: Some(request.expiration_s),
                ..TokenRequestSpec::default()
            }),
            ..ApiTokenRequest::default()
        };
        let issued_at = clock::now();
        let params = PostParams::default();
        let call = accounts.create_token_request(&request.service_account, &params, &asked);
        let answer = self.call(call).await?;
        let lifetime_s =
            answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(request.expiration_s);
        let text = answer.status.and_then(|status| status.token).filter(|text| !text.is_empty());
        match text {
            Some(text) => Ok(Token { text, issued_at, expires_at: issued_at.plus_s(lifetime_s) }),
            None => {
                Err(ApiError::Unavailable("the TokenRequest was answered without a token".into()))
            }
        }
    }
}
