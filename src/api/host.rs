//! Which hosts a request may name. It names exactly one (RFC 9112, section 3.2). On a loopback listener without keys it
//! must be a name that no other site can point at this machine (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, Version, header};

use super::error::{Error, Result};
use crate::config::Listen;

/// The host names that a listener accepts. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    /// Besides `localhost`, what is below it, and addresses. `None`: any name.
    names: Option<Arc<[String]>>,
}

impl Hosts {
    /// Names are checked on a loopback address without keys. There a browser on this machine can call the API for any page;
    /// its request names the host that the page came from.
    pub(super) fn of(listen: &Listen, is_keyless: bool, allowed: &[String]) -> Self {
        let is_loopback = matches!(listen, Listen::Tcp(address) if address.ip().is_loopback());
        let is_any_allowed = allowed.iter().any(|name| name == "*");
        let names = (is_loopback && is_keyless && !is_any_allowed)
            .then(|| allowed.iter().filter(|name| !name.is_empty()).cloned().collect());
        Self { names }
    }

    /// Refuses a request that does not name one host, or names one that is not accepted.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
        let bad = |detail: &str| Err(Error::new(StatusCode::BAD_REQUEST, "invalid-host", detail));
        let mut fields = request.headers().get_all(header::HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return bad("a request names one host: send one Host header");
        }
        // An absolute target, or HTTP/2's :authority, takes precedence over the Host header.
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let field = field.map(|field| field.as_bytes());
        if request.version() == Version::HTTP_2
            && let (Some(authority), Some(field)) = (authority, field)
            && authority != field
        {
            return bad("a request names one host: :authority and the Host header differ");
        }
        let host = match (authority, field) {
            (Some(_), None) if request.version() == Version::HTTP_11 => None,
            (authority, field) => authority.or(field),
        };
        match (host, &self.names) {
            (None, _) if request.version() == Version::HTTP_10 => Ok(()),
            (None, _) => bad("a request names the host that it is for: send a Host header"),
            (Some(_), None) => Ok(()),
            (Some(host), Some(names)) if is_accepted(host, names) => Ok(()),
            (Some(host), Some(_)) => {
                let detail = format!(
                    "without API keys this address serves localhost only, and the request is for {:?}: a web page may have \
                     sent it. If it is one of your names, pass it with --allowed-host, or give callers keys",
                    String::from_utf8_lossy(host)
                );
                Err(Error::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", detail))
            }
        }
    }
}

/// Whether `host`, with or without a port, is `localhost` or below it (RFC 6761, section 6.3), an IP address, or one of
/// `names`.
fn is_accepted(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    last.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() || names.iter().any(|name| is(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_this_machine_has_are_accepted() {
        let names = ["gate.internal".to_owned()];
        for host in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "app.localhost:1",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "192.0.2.7",
            "gate.internal",
            "GATE.internal.:8080",
        ] {
            assert!(is_accepted(host.as_bytes(), &names), "{host}");
        }
        for host in
            ["", ":8080", "evil.example", "localhost.evil.example", "notlocalhost", "[evil]", "[::1", "a@localhost"]
        {
            assert!(!is_accepted(host.as_bytes(), &names), "{host}");
        }
        assert!(!is_accepted(b"\xff", &names));
    }
}
