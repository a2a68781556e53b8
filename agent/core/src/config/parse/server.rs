//! Fields of the node's HTTP API: addresses, certificates, who may ask (A178–A180).

use std::net::IpAddr;

use super::reader::Reader;
use crate::config::{AuthorizationMode, ServerConfig, TlsVersion};

const DAY_MS: i64 = 86_400_000;

/// Suites of the TLS library, by Go's names. Those of TLS 1.3 are always on.
const SUITES: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];
const SUITES_13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

impl Reader {
    pub(super) fn server(&mut self, server: &mut ServerConfig) {
        self.ip("address", &mut server.address);
        let mut port = i64::from(server.port);
        self.count("port", 1..=65535, &mut port);
        server.port = u16::try_from(port).unwrap_or(server.port);
        self.ip("healthzBindAddress", &mut server.healthz_address);
        let mut healthz = server.healthz_port.map_or(0, i64::from);
        self.number("healthzPort", 0..=65535, &mut healthz);
        server.healthz_port = u16::try_from(healthz).ok().filter(|port| *port != 0);
        let mut read_only = 0;
        self.number("readOnlyPort", 0..=65535, &mut read_only);
        if read_only != 0 {
            self.warning(
                "readOnlyPort",
                "is not opened: ask the authenticated port, which is `port`",
            );
        }
        self.authentication(server);
        self.authorization(server);
        self.tls(server);
    }

    fn authentication(&mut self, server: &mut ServerConfig) {
        let into = &mut server.authentication;
        self.nested("authentication", |fields| {
            fields.nested("x509", |x509| x509.text("clientCAFile", &mut into.client_ca_file));
            fields.nested("anonymous", |it| it.flag("enabled", &mut into.anonymous));
            fields.nested("webhook", |it| {
                it.flag("enabled", &mut into.webhook);
                it.millis("cacheTTL", 1..=DAY_MS, &mut into.webhook_cache_ttl_ms);
            });
        });
        if server.authentication.anonymous {
            self.warning(
                "authentication.anonymous.enabled",
                "is true: requests without a credential are asked about as system:anonymous",
            );
        }
    }

    fn authorization(&mut self, server: &mut ServerConfig) {
        let into = &mut server.authorization;
        self.nested("authorization", |fields| {
            let mut mode = String::new();
            fields.text("mode", &mut mode);
            match mode.as_str() {
                "" | "Webhook" => {}
                "AlwaysAllow" => {
                    into.mode = AuthorizationMode::AlwaysAllow;
                    fields.warning(
                        "mode",
                        "is AlwaysAllow: whoever is authenticated may run commands in every pod",
                    );
                }
                _ => fields.error("mode", format!("is {mode:?}: use Webhook or AlwaysAllow")),
            }
            fields.nested("webhook", |it| {
                it.millis("cacheAuthorizedTTL", 1..=DAY_MS, &mut into.authorized_ttl_ms);
                it.millis("cacheUnauthorizedTTL", 1..=DAY_MS, &mut into.unauthorized_ttl_ms);
            });
        });
    }

    fn tls(&mut self, server: &mut ServerConfig) {
        self.text("tlsCertFile", &mut server.tls_cert_file);
        self.text("tlsPrivateKeyFile", &mut server.tls_private_key_file);
        for (field, has, other) in [
            ("tlsCertFile", !server.tls_cert_file.is_empty(), &server.tls_private_key_file),
            ("tlsPrivateKeyFile", !server.tls_private_key_file.is_empty(), &server.tls_cert_file),
        ] {
            if has && other.is_empty() {
                self.error(field, "needs both tlsCertFile and tlsPrivateKeyFile".into());
            }
        }
        let mut version = String::new();
        self.text("tlsMinVersion", &mut version);
        match version.as_str() {
            "" | "VersionTLS12" => {}
            "VersionTLS13" => server.tls_min_version = TlsVersion::Tls13,
            "VersionTLS10" | "VersionTLS11" => {
                self.warning("tlsMinVersion", "is older than what is offered: 1.2 is the least");
            }
            _ => self.error(
                "tlsMinVersion",
                format!("is {version:?}: use VersionTLS12 or VersionTLS13"),
            ),
        }
        self.suites(server);
    }

    fn suites(&mut self, server: &mut ServerConfig) {
        let mut asked = Vec::new();
        self.texts("tlsCipherSuites", &mut asked);
        let asked_any = !asked.is_empty();
        for (i, suite) in asked.into_iter().enumerate() {
            if SUITES.contains(&suite.as_str()) || SUITES_13.contains(&suite.as_str()) {
                server.tls_cipher_suites.push(suite);
            } else {
                self.warning(&format!("tlsCipherSuites[{i}]"), format!("{suite} is not offered"));
            }
        }
        if asked_any && server.tls_cipher_suites.is_empty() {
            self.error("tlsCipherSuites", "names no suite that is offered; remove it".into());
        }
    }

    fn ip(&mut self, field: &str, into: &mut IpAddr) {
        let mut text = String::new();
        self.text(field, &mut text);
        match text.parse() {
            _ if text.is_empty() => {}
            Ok(ip) => *into = ip,
            Err(_) => self.error(field, format!("{text:?} is not an address")),
        }
    }
}
