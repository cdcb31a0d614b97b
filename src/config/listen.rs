//! `--listen`: an address, or a unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// IP:PORT.
    Tcp(SocketAddr),
    /// unix:PATH.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("name a path, as in unix:/run/sessiond.sock".into())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        local
            .as_deref()
            .unwrap_or(text)
            .parse()
            .map(Self::Tcp)
            .map_err(|_| "write it like 127.0.0.1:8080, [::1]:8080 or unix:/run/sessiond.sock".into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// The address to reach this one at from the same machine.
    #[must_use]
    pub fn local(&self) -> Self {
        match self {
            Self::Tcp(address) if address.ip().is_unspecified() => {
                let ip = if address.is_ipv4() {
                    IpAddr::from([127, 0, 0, 1])
                } else {
                    IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
                };
                Self::Tcp(SocketAddr::new(ip, address.port()))
            }
            other => other.clone(),
        }
    }
}
