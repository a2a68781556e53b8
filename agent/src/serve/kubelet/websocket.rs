//! A bearer token among the subprotocols of a WebSocket: a browser cannot send it in another way
//! (A179). It is the caller's secret, so it goes no further than this port.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

/// Before the token, which is in base64url without padding.
const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|one| !one.is_empty())
}

/// The token, as the kubelet takes it: of a WebSocket's opening only, and beside a protocol that
/// can be chosen.
pub fn token(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(UPGRADE)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let mut tokens = protocols(headers).filter_map(|one| one.strip_prefix(PREFIX));
    let (first, more) = (tokens.next()?, tokens.next());
    let others = protocols(headers).any(|one| !one.starts_with(PREFIX));
    if more.is_some() || !others {
        return None;
    }
    String::from_utf8(URL_SAFE_NO_PAD.decode(first).ok()?).ok().filter(|token| !token.is_empty())
}

/// The subprotocols that are none; `None`: there are no others.
pub fn without_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let others: Vec<&str> = protocols(headers).filter(|one| !one.starts_with(PREFIX)).collect();
    let value = HeaderValue::from_str(&others.join(", ")).ok();
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(upgrade: &'static str, protocols: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        for one in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(one));
        }
        headers
    }

    /// `good`.
    const TOKEN: &str = "base64url.bearer.authorization.k8s.io.Z29vZA";

    #[test]
    fn a179_a_websocket_may_carry_its_token_as_a_protocol() {
        let of = |upgrade, protocols: &[&'static str]| token(&headers(upgrade, protocols));
        let good = Some("good".to_owned());
        assert_eq!(of("websocket", &["v5.channel.k8s.io", TOKEN]), good);
        let line = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.Z29vZA";
        assert_eq!(of("WebSocket", &[line]), good);
        for (upgrade, protocols) in [
            ("SPDY/3.1", &["v5.channel.k8s.io", TOKEN][..]),
            ("websocket", &[TOKEN]),
            ("websocket", &["v5.channel.k8s.io", TOKEN, TOKEN]),
            ("websocket", &["v5.channel.k8s.io"]),
            ("websocket", &["x", "base64url.bearer.authorization.k8s.io.Z29vZA=="]),
            ("websocket", &["x", "base64url.bearer.authorization.k8s.io.Z"]),
            ("websocket", &["x", "base64url.bearer.authorization.k8s.io."]),
        ] {
            assert_eq!(of(upgrade, protocols), None, "{upgrade} {protocols:?}");
        }
    }

    #[test]
    fn a182_the_token_of_a_websocket_goes_no_further() {
        let of = |protocols: &[&'static str]| {
            without_token(&headers("websocket", protocols))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let both = Some("v5.channel.k8s.io, v4.channel.k8s.io".to_owned());
        assert_eq!(of(&["v5.channel.k8s.io", TOKEN, "v4.channel.k8s.io"]), both);
        assert_eq!(of(&[TOKEN]), None);
        assert_eq!(of(&[]), None);
        // Also one that would not be taken for a token.
        assert_eq!(of(&["base64url.bearer.authorization.k8s.io.?, x"]), Some("x".to_owned()));
    }
}
