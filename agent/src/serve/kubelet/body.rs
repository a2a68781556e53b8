//! Answers: bytes that are there, or that come.

use std::convert::Infallible;

use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type Answer = Response<Body>;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn with_type(status: StatusCode, body: Body, kind: HeaderValue) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

pub fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    with_type(status, full(text.into()), TEXT)
}

/// The text form of OpenMetrics.
pub fn metrics(text: String) -> Answer {
    with_type(StatusCode::OK, full(text), OPEN_METRICS)
}

pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, full(bytes), JSON),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Chunks as they come.
pub fn stream(chunks: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Answer {
    use futures::StreamExt as _;
    let frames = chunks.map(|chunk| chunk.map(Frame::data));
    with_type(StatusCode::OK, StreamBody::new(frames).boxed_unsync(), TEXT)
}
