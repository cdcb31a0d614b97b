//! Builds `Set-Cookie` exactly as express-session does: same attributes, same order, never `Max-Age` on a live cookie.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::clock::Ms;
use crate::id::MAX_ID_BYTES;

/// What a browser keeps of name and value together, in bytes (RFC 6265bis, section 5.6).
const MAX_COOKIE_BYTES: usize = 4096;
/// What a browser keeps of one attribute's value, in bytes (RFC 6265bis, section 5.6).
const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// The `SameSite` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SameSite {
    /// Sent only with requests that the site itself makes.
    Strict,
    /// Also sent when a link leads to the site.
    Lax,
    /// Always sent; needs `Secure`.
    None,
}

/// The `Priority` attribute (Chromium).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// Evicted first.
    Low,
    /// What browsers assume.
    Medium,
    /// Evicted last.
    High,
}

/// Everything about the cookie that is not its value or its expiry.
#[derive(Debug, Clone)]
pub struct Attributes {
    /// The cookie's name; an RFC 9110 token.
    pub name: String,
    /// `Domain`: the cookie goes to this host and those below it. None: only to the host that set it.
    pub domain: Option<String>,
    /// `Path`, starting with `/`.
    pub path: String,
    /// `HttpOnly`: not readable by scripts.
    pub http_only: bool,
    /// `Secure`: only over HTTPS (browsers count localhost as such).
    pub secure: bool,
    /// `Partitioned`: one cookie jar for each top-level site (CHIPS).
    pub partitioned: bool,
    /// `Priority`; None leaves it off.
    pub priority: Option<Priority>,
    /// `SameSite`; None leaves it off.
    pub same_site: Option<SameSite>,
}

/// Attributes that a browser would refuse, and what to do about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Attributes {
    /// Refuses what a browser would drop in silence (RFC 6265bis, CHIPS).
    ///
    /// # Errors
    /// Says which flag is wrong and what it takes.
    pub fn check(&self) -> Result<(), Invalid> {
        let refuse = |why: String| Err(Invalid(why));
        let name = self.name.as_str();
        if name.is_empty() || !name.bytes().all(is_token) {
            return refuse(format!(
                "--cookie-name {name:?} is not a cookie name: use letters, digits and !#$%&'*+-.^_`|~"
            ));
        }
        // The longest value: an id of which every byte is escaped, and the signature likewise.
        let longest = "s%3A.".len() + 3 * (MAX_ID_BYTES + super::SIGNATURE_BYTES);
        if name.len() + longest > MAX_COOKIE_BYTES {
            return refuse(format!(
                "--cookie-name is {} bytes long: with the longest value the cookie would pass the {MAX_COOKIE_BYTES} bytes \
                 that browsers keep; use at most {} bytes",
                name.len(),
                MAX_COOKIE_BYTES - longest
            ));
        }
        if !self.path.starts_with('/') || !is_attribute(&self.path) {
            return refuse(format!(
                "--cookie-path {:?} is not a path: start it with / and use at most {MAX_ATTRIBUTE_BYTES} printable ASCII characters without ;",
                self.path
            ));
        }
        if let Some(domain) = &self.domain
            && (domain.is_empty()
                || !domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
                || domain.len() > 253)
        {
            return refuse(format!(
                "--cookie-domain {domain:?} is not a host name: write it like example.com (IDNs in their xn-- form)"
            ));
        }
        self.check_prefix()?;
        if self.same_site == Some(SameSite::None) && !self.secure {
            return refuse(
                "--cookie-same-site none needs --cookie-secure true: browsers drop the cookie otherwise".into(),
            );
        }
        if self.partitioned && !self.secure {
            return refuse(
                "--cookie-partitioned true needs --cookie-secure true: browsers drop the cookie otherwise".into(),
            );
        }
        Ok(())
    }

    /// The name prefixes of RFC 6265bis. Browsers compare them without regard to case, servers often
    /// do not, so a look-alike is refused.
    fn check_prefix(&self) -> Result<(), Invalid> {
        for prefix in ["__Host-Http-", "__Host-", "__Secure-", "__Http-"] {
            let Some(start) = self.name.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix)) else {
                continue;
            };
            let wrong = if start != prefix {
                "write the prefix in exactly this case"
            } else if !self.secure {
                "it needs --cookie-secure true"
            } else if prefix.starts_with("__Host-") && self.domain.is_some() {
                "it allows no --cookie-domain"
            } else if prefix.starts_with("__Host-") && self.path != "/" {
                "it needs --cookie-path /"
            } else if prefix.ends_with("Http-") && !self.http_only {
                "it needs --cookie-http-only true"
            } else {
                return Ok(());
            };
            return Err(Invalid(format!("--cookie-name {} starts with the prefix {prefix}: {wrong}", self.name)));
        }
        Ok(())
    }
}

/// An RFC 9110 token character.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_attribute(value: &str) -> bool {
    value.len() <= MAX_ATTRIBUTE_BYTES && value.bytes().all(|byte| (b' '..0x7F).contains(&byte) && byte != b';')
}

/// Writes `Set-Cookie` values: the attributes are put together once, at start.
#[derive(Debug, Clone)]
pub struct SetCookie {
    name: String,
    before_expires: String,
    after_expires: String,
}

impl SetCookie {
    /// # Errors
    /// As [`Attributes::check`].
    pub fn new(attributes: &Attributes) -> Result<Self, Invalid> {
        attributes.check()?;
        let mut before_expires = String::new();
        if let Some(domain) = &attributes.domain {
            let _ = write!(before_expires, "; Domain={domain}");
        }
        let _ = write!(before_expires, "; Path={}", attributes.path);
        let mut after_expires = String::new();
        for (on, text) in [
            (attributes.http_only, "; HttpOnly"),
            (attributes.secure, "; Secure"),
            (attributes.partitioned, "; Partitioned"),
        ] {
            after_expires.push_str(if on { text } else { "" });
        }
        if let Some(priority) = attributes.priority {
            let _ = write!(after_expires, "; Priority={priority:?}");
        }
        if let Some(same_site) = attributes.same_site {
            let _ = write!(after_expires, "; SameSite={same_site:?}");
        }
        Ok(Self { name: attributes.name.clone(), before_expires, after_expires })
    }

    /// The cookie's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the cookie to `value` until `expires_at` (epoch ms); None: until the browser is closed.
    #[must_use]
    pub fn set(&self, value: &str, expires_at: Option<Ms>) -> String {
        let expires = expires_at.map(|at| format!("; Expires={}", imf_fixdate(at))).unwrap_or_default();
        [&self.name, "=", value, &self.before_expires, &expires, &self.after_expires].concat()
    }

    /// Makes the browser forget the cookie: same name, domain, path and partition, long expired.
    #[must_use]
    pub fn clear(&self) -> String {
        let expires = format!("; Max-Age=0; Expires={}", imf_fixdate(0));
        [&self.name, "=", &self.before_expires, &expires, &self.after_expires].concat()
    }
}

/// `Mon, 23 Nov 2026 00:59:40 GMT`, as RFC 9110 and JavaScript's `toUTCString` write it.
fn imf_fixdate(at: Ms) -> String {
    let at = Duration::from_millis(at.clamp(0, crate::clock::MAX_MS).unsigned_abs());
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(name: &str) -> Attributes {
        Attributes {
            name: name.into(),
            domain: None,
            path: "/".into(),
            http_only: true,
            secure: true,
            partitioned: false,
            priority: None,
            same_site: Some(SameSite::Lax),
        }
    }

    #[test]
    fn attributes_come_in_express_order() {
        let all = Attributes {
            domain: Some("example.com".into()),
            path: "/app".into(),
            partitioned: true,
            priority: Some(Priority::High),
            same_site: Some(SameSite::None),
            ..attributes("connect.sid")
        };
        let cookie = SetCookie::new(&all).unwrap();
        assert_eq!(
            cookie.set("s%3Aa.b", Some(1_795_395_580_896)),
            "connect.sid=s%3Aa.b; Domain=example.com; Path=/app; Expires=Mon, 23 Nov 2026 00:59:40 GMT; \
             HttpOnly; Secure; Partitioned; Priority=High; SameSite=None"
        );
        assert_eq!(
            cookie.clear(),
            "connect.sid=; Domain=example.com; Path=/app; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
             HttpOnly; Secure; Partitioned; Priority=High; SameSite=None"
        );
        let plain = Attributes { http_only: false, secure: false, same_site: None, ..attributes("sid") };
        assert_eq!(SetCookie::new(&plain).unwrap().set("v", None), "sid=v; Path=/");
    }

    #[test]
    fn what_a_browser_would_drop_is_refused() {
        let base = attributes;
        let refused: Vec<(&str, Attributes)> = vec![
            ("not a cookie name", base("")),
            ("not a cookie name", base("a b")),
            ("not a cookie name", base("a=b")),
            ("4096 bytes", base(&"n".repeat(3300))),
            ("exactly this case", base("__host-sid")),
            ("exactly this case", base("__SeCuRe-sid")),
            ("--cookie-secure true", Attributes { secure: false, ..base("__Secure-sid") }),
            ("no --cookie-domain", Attributes { domain: Some("example.com".into()), ..base("__Host-sid") }),
            ("--cookie-path /", Attributes { path: "/app".into(), ..base("__Host-sid") }),
            ("--cookie-http-only true", Attributes { http_only: false, ..base("__Http-sid") }),
            ("same-site none needs", Attributes { secure: false, same_site: Some(SameSite::None), ..base("sid") }),
            ("partitioned true needs", Attributes { secure: false, partitioned: true, ..base("sid") }),
            ("is not a path", Attributes { path: "app".into(), ..base("sid") }),
            ("is not a path", Attributes { path: "/a;b".into(), ..base("sid") }),
            ("is not a path", Attributes { path: format!("/{}", "a".repeat(1024)), ..base("sid") }),
            ("is not a host name", Attributes { domain: Some("a b".into()), ..base("sid") }),
            ("is not a host name", Attributes { domain: Some(String::new()), ..base("sid") }),
        ];
        for (why, attributes) in refused {
            let error = attributes.check().expect_err(&attributes.name).to_string();
            assert!(error.contains(why), "{error}");
        }
        for name in ["__Host-sid", "__Secure-sid", "__Host-Http-sid", "connect.sid"] {
            assert_eq!(base(name).check(), Ok(()));
        }
    }
}
