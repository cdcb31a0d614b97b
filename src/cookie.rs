//! The cookie codec of express-session: pure functions from header bytes to a verified session id, and back.
//!
//! The cookie value is `s:` + id + `.` + signature, percent-encoded as JavaScript's
//! `encodeURIComponent` does it. The signature is HMAC-SHA256 over the id, in standard base64
//! without padding. Judged against express-session 1.19, cookie-signature 1.0 and cookie 0.7.

mod set_cookie;

pub use set_cookie::{Attributes, Invalid, Priority, SameSite, SetCookie};

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::id::Id;

/// How many cookies of the session's name are looked at in one request; later ones are ignored.
pub const MAX_CANDIDATES: usize = 64;

/// How many signatures are compared for one text of a batch; later ones are ignored.
pub const MAX_TEXT_CANDIDATES: usize = 8;

/// A signature: 32 bytes in base64 without padding.
const SIGNATURE_BYTES: usize = 43;

/// What `encodeURIComponent` leaves as it is.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Signs session ids and verifies what comes back.
#[derive(Clone)]
pub struct Signer {
    /// Keyed HMAC states, so that no request pays for the key schedule. The first signs, all verify.
    keys: Vec<Hmac<Sha256>>,
}

/// A session id whose signature was right, and the secret it was signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    /// The session's id.
    pub id: Id,
    /// Which secret had signed it: 0 is the one that signs now.
    pub secret: usize,
}

/// Why no session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unopened {
    /// There is no cookie of that name.
    Absent,
    /// There is one, and no secret of ours has signed it.
    BadSignature,
}

/// An id may be printed; how it was signed says nothing worth printing.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("id", &self.id).field("secret", &self.secret).finish()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

impl Signer {
    /// A signer over at least one secret: the first signs, every one verifies.
    ///
    /// # Panics
    /// When there is no secret: the configuration refuses that before.
    #[must_use]
    pub fn new(secrets: &[SecretString]) -> Self {
        assert!(!secrets.is_empty(), "a signer needs a secret");
        let keyed = |secret: &SecretString| {
            Hmac::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length")
        };
        Self { keys: secrets.iter().map(keyed).collect() }
    }

    /// The cookie value for `id`, percent-encoded, signed with the first secret.
    #[must_use]
    pub fn sign(&self, id: &str) -> String {
        let signature = signature(&self.keys[0], id.as_bytes());
        let mut value = String::with_capacity(id.len() + 64);
        value.push_str("s%3A");
        value.extend(utf8_percent_encode(id, URI_COMPONENT));
        value.push('.');
        let signature = std::str::from_utf8(&signature).unwrap_or_default();
        value.extend(utf8_percent_encode(signature, URI_COMPONENT));
        value
    }

    /// The first cookie called `name` that verifies, in the order of the headers.
    ///
    /// Unlike Express, which judges only the first of several duplicates, a forged or stale
    /// cookie set for a parent domain cannot hide the right one behind it.
    ///
    /// # Errors
    /// When there is none: whether there was one that did not verify.
    pub fn open<'h>(&self, headers: impl IntoIterator<Item = &'h [u8]>, name: &str) -> Result<Verified, Unopened> {
        let mut unopened = Unopened::Absent;
        headers
            .into_iter()
            .flat_map(|header| values(header, name.as_bytes()))
            .take(MAX_CANDIDATES)
            .find_map(|value| {
                unopened = Unopened::BadSignature;
                self.verify(&value)
            })
            .ok_or(unopened)
    }

    /// Like [`Signer::open`], for text that is a cookie's bare value, as stored by the browser, or else a whole `Cookie`
    /// header. Compares up to [`MAX_TEXT_CANDIDATES`] signatures; cookies without one do not count. Adds the number of
    /// compared signatures to `compared`.
    ///
    /// # Errors
    /// As [`Signer::open`].
    pub fn open_text(&self, text: &str, name: &str, compared: &mut usize) -> Result<Verified, Unopened> {
        let text = text.trim_ascii().as_bytes();
        let is_bare = ["s:", "s%3A", "s%3a", "\"s"].iter().any(|start| text.starts_with(start.as_bytes()));
        let candidates: &mut dyn Iterator<Item = _> =
            if is_bare { &mut std::iter::once_with(|| decode(text)) } else { &mut values(text, name.as_bytes()) };
        let (mut unopened, mut left) = (Unopened::Absent, MAX_TEXT_CANDIDATES);
        for candidate in candidates {
            unopened = Unopened::BadSignature;
            let Some((id, given)) = split(&candidate) else { continue };
            if left == 0 {
                break;
            }
            left -= 1;
            *compared += 1;
            if let Some(verified) = self.verify_split(id, given) {
                return Ok(verified);
            }
        }
        Err(unopened)
    }

    /// How many secrets a signature is compared with.
    #[must_use]
    pub fn secrets(&self) -> usize {
        self.keys.len()
    }

    /// Verifies one cookie value, already percent-decoded: `s:` + id + `.` + signature.
    ///
    /// Every secret is tried, in constant time, whether or not an earlier one matched.
    #[must_use]
    pub fn verify(&self, value: &[u8]) -> Option<Verified> {
        let (id, given) = split(value)?;
        self.verify_split(id, given)
    }

    fn verify_split(&self, id: Id, given: &[u8]) -> Option<Verified> {
        let (mut matched, mut secret) = (Choice::from(0), 0_u64);
        for (position, key) in (0_u64..).zip(&self.keys) {
            let equal = signature(key, id.as_str().as_bytes()).ct_eq(given);
            secret.conditional_assign(&position, equal & !matched);
            matched |= equal;
        }
        bool::from(matched).then(|| Verified { id, secret: usize::try_from(secret).unwrap_or(0) })
    }
}

/// Splits a cookie value into the id and a signature of the right length.
fn split(value: &[u8]) -> Option<(Id, &[u8])> {
    let signed = value.strip_prefix(b"s:")?;
    let dot = signed.iter().rposition(|&byte| byte == b'.')?;
    let (id, given) = (&signed[..dot], &signed[dot + 1..]);
    let id = std::str::from_utf8(id).ok().filter(|_| given.len() == SIGNATURE_BYTES)?;
    Some((Id::parse(id)?, given))
}

/// Whether a text begins as a signed cookie's value does, and no id of ours or Express's.
#[must_use]
pub fn is_value(text: &str) -> bool {
    text.starts_with("s:") || text.starts_with("s%3A") || text.starts_with("s%3a")
}

/// The signature of `id`, in base64 without padding.
fn signature(key: &Hmac<Sha256>, id: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut mac = key.clone();
    mac.update(id);
    let mut text = [0; SIGNATURE_BYTES];
    STANDARD_NO_PAD.encode_slice(mac.finalize().into_bytes(), &mut text).expect("32 bytes are 43 characters");
    text
}

/// The values of every cookie called `name` in one `Cookie` header, decoded as Express's `cookie` package does it.
///
/// Works on bytes: HTTP lets bytes above 0x7F through, and another application's cookie may hold them.
fn values<'h>(header: &'h [u8], name: &'h [u8]) -> impl Iterator<Item = Cow<'h, [u8]>> {
    header.split(|&byte| byte == b';').filter_map(move |pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        (trim(&pair[..equals]) == name).then(|| decode(trim(&pair[equals + 1..])))
    })
}

/// Without the spaces and tabs around it.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// One pair of quotes off, then percent-decoded; a value that does not decode stays as it was sent.
fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut decoded, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        decoded.extend_from_slice(&rest[..at]);
        // `decodeURIComponent` throws on a stray `%`, and on bytes that are not UTF-8.
        let Some((&[high, low], after)) = rest[at + 1..].split_first_chunk() else { return Cow::Borrowed(value) };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Cow::Borrowed(value) };
        decoded.push(16 * high + low);
        rest = after;
    }
    decoded.extend_from_slice(rest);
    if std::str::from_utf8(&decoded).is_ok() { Cow::Owned(decoded) } else { Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests;
