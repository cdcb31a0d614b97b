use proptest::prelude::*;

use percent_encoding::percent_decode;

use super::*;
use crate::id::MAX_ID_BYTES;

fn signer(secrets: &[&str]) -> Signer {
    Signer::new(&secrets.iter().map(|&secret| secret.into()).collect::<Vec<_>>())
}

fn open(signer: &Signer, header: &[u8]) -> Option<String> {
    signer.open([header], "connect.sid").ok().map(|verified| verified.id.to_string())
}

#[test]
fn express_test_vectors_match_byte_for_byte() {
    let vectors = [
        ("new-secret", "ext1", "s%3Aext1.9Qe1bDw9IbckYzW0%2BXplAxUJPFtXhop3NfwdmnycIw8"),
        ("old-secret", "ext1", "s%3Aext1.EcAcp8RjttSQF%2B1cK5QjB7OhAX4R8AWeywq2%2BaFJIWQ"),
        ("keyboard cat", "a.b.c", "s%3Aa.b.c.G8ReS2HiYVtvMBGFvZUGp5RaCauWFLUTjnnTm%2FEQ2aE"),
        (
            "new-secret",
            "2ZxoG-lhTWsQgMKY2HSPYdMLI1Pe6pzi",
            "s%3A2ZxoG-lhTWsQgMKY2HSPYdMLI1Pe6pzi.EmFjYiV6TydCgnZpHLVXn7dKsXYabuNPY0%2Fn5YzJ3hE",
        ),
    ];
    for (secret, id, value) in vectors {
        let signer = signer(&[secret]);
        assert_eq!(signer.sign(id), value);
        assert_eq!(open(&signer, format!("connect.sid={value}").as_bytes()).as_deref(), Some(id));
    }
}

#[test]
fn every_secret_verifies_and_says_which_it_was() {
    let (old, both) = (signer(&["old-secret"]), signer(&["new-secret", "old-secret"]));
    let header = format!("connect.sid={}", old.sign("ext1"));
    let verified = both.open([header.as_bytes()], "connect.sid").expect("an old secret still verifies");
    assert_eq!((verified.id.as_str(), verified.secret), ("ext1", 1));
    assert_eq!(both.sign("ext1"), signer(&["new-secret"]).sign("ext1"), "the first secret signs");
    assert_eq!(open(&signer(&["new-secret"]), header.as_bytes()), None);
}

#[test]
fn a_cookie_header_is_read_as_express_reads_it() {
    let signer = signer(&["keyboard cat"]);
    let value = signer.sign("a.b.c");
    let raw = percent_decode(value.as_bytes()).decode_utf8().unwrap().into_owned();
    let found = [
        format!("connect.sid={value}"),
        format!("other=1; connect.sid={value}; more=2"),
        format!("connect.sid=\"{value}\""),
        format!(" \tconnect.sid \t= {value}\t"),
        format!("connect.sid={raw}"),
        format!("connect.sid=forged; connect.sid={value}"),
        format!("connect.sid={}; connect.sid={value}", raw.replace('G', "H")),
        format!("=; ;;=a; connect.sid={value}"),
        format!("bad=%zz; connect.sid={value}"),
    ];
    for header in found {
        assert_eq!(open(&signer, header.as_bytes()).as_deref(), Some("a.b.c"), "{header}");
    }
    let not_found = [
        String::new(),
        "connect.sid".into(),
        "connect.sid=".into(),
        "connect.sid=s:".into(),
        "connect.sid=s:.".into(),
        format!("Connect.sid={value}"),
        format!("connect.sid={}", raw.trim_start_matches("s:")),
        format!("connect.sid={raw}="),
        format!("connect.sid={value}%"),
        format!("connect.sid=\"\"{value}\"\""),
        format!("connect.sid={}", raw.replace("a.b.c", "a.b.d")),
        format!("xconnect.sid={value}"),
    ];
    for header in not_found {
        assert_eq!(open(&signer, header.as_bytes()), None, "{header}");
    }
}

#[test]
fn bytes_above_ascii_do_not_hide_the_cookie() {
    let signer = signer(&["keyboard cat"]);
    let mut header = b"other=\xff\xfe; connect.sid=".to_vec();
    header.extend_from_slice(signer.sign("a").as_bytes());
    assert_eq!(open(&signer, &header).as_deref(), Some("a"));
}

#[test]
fn at_most_64_candidates_are_looked_at() {
    let signer = signer(&["keyboard cat"]);
    let behind = |count: usize| format!("{}connect.sid={}", "connect.sid=s:x.y; ".repeat(count), signer.sign("a"));
    assert!(open(&signer, behind(MAX_CANDIDATES - 1).as_bytes()).is_some());
    assert!(open(&signer, behind(MAX_CANDIDATES).as_bytes()).is_none());
}

#[test]
fn an_id_is_bounded_and_printable() {
    let signer = signer(&["keyboard cat"]);
    let opens = |id: &str| open(&signer, format!("connect.sid={}", signer.sign(id)).as_bytes()).is_some();
    assert!(opens(&"x".repeat(MAX_ID_BYTES)));
    assert!(opens("söme id;=\""));
    assert!(!opens(&"x".repeat(MAX_ID_BYTES + 1)));
    assert!(!opens("a\nb"));
    assert!(!opens(""));
}

proptest! {
    #[test]
    fn what_is_signed_opens_and_nothing_else_does(id in "[^\\p{Cc}]{1,60}", flip in any::<prop::sample::Index>()) {
        let signer = signer(&["keyboard cat", "another secret"]);
        let value = signer.sign(&id);
        prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)));
        let header = format!("connect.sid={value}");
        prop_assert_eq!(open(&signer, header.as_bytes()), Some(id.clone()));
        let mut raw: Vec<u8> = percent_decode(value.as_bytes()).collect();
        let at = flip.index(raw.len());
        raw[at] ^= 1;
        prop_assert!(signer.verify(&raw).is_none());
    }

    #[test]
    fn no_header_makes_it_panic(header in prop::collection::vec(any::<u8>(), 0..400), cookie in "[%\"=; \\ts:.a]{0,80}") {
        let signer = signer(&["keyboard cat"]);
        prop_assert!(open(&signer, &header).is_none());
        prop_assert!(open(&signer, ["connect.sid=", &cookie].concat().as_bytes()).is_none());
    }
}
