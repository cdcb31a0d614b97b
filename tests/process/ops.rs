//! The ops commands, beside a service on each store.

use std::path::Path;

use crate::place::{Place, Said};
use crate::secrecy::hunt;
use crate::sessiond::{SECRET, run};

fn id(cookie: &str) -> &str {
    cookie.split_once("%3A").unwrap().1.rsplit_once('.').unwrap().0
}

#[test]
fn inspect_takes_a_session_by_whatever_names_it() {
    for place in Place::both() {
        let cookie = place.issue(r#"{"user_id":"ada","data":{"theme":"dark"},"client":{"label":"a phone"}}"#);
        let (id, value) = (id(&cookie), cookie.split_once('=').unwrap().1);
        let raw = value.replace("%3A", ":").replace("%2B", "+").replace("%2F", "/");
        let header = format!("Cookie: theme=dark; connect.sid=s%3Aforged.x; {cookie}");
        let mut printed = String::new();
        for given in [id, &cookie, value, &raw, &header, &header[8..]] {
            for (given, stdin) in [(given, ""), ("-", given)] {
                let said = place.ask_with(&["inspect", given], &[], stdin);
                let shows = ["live", "ada", "a phone", "\"theme\": \"dark\"", "originalMaxAge", "(in 23h 59m)", id];
                assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
                assert!(shows.iter().all(|text| said.stdout.contains(text)), "{}", said.stdout);
                printed += &said.stdout;
                let json = place.ask_with(&["inspect", given, "--json"], &[], stdin).json();
                assert_eq!(json["id"], id);
                assert_eq!(json["data"]["theme"], "dark");
                assert_eq!(json["cookie"]["originalMaxAge"], 86_400_000);
                assert_eq!(json["signature"].is_null(), given == id || stdin == id, "{json}");
                printed += &json.to_string();
            }
        }
        hunt(&printed, &[cookie], "inspect");
    }
}

#[test]
fn inspect_says_which_secret_signed_and_what_is_wrong() {
    let other = "another secret for tests of 32 bytes or more";
    for place in Place::both() {
        let cookie = place.issue(r#"{"user_id":"ada"}"#);
        let database_secret = place.folder.path().join("sessiond.db.secret");
        let secret = std::fs::read_to_string(&database_secret).unwrap_or(SECRET.into()).trim().to_owned();
        let with = |secrets: &str, args: &[&str]| {
            place.ask_with(&[&["inspect"], args].concat(), &[("SESSIOND_SECRET", secrets)], "")
        };
        let rotated = format!("{other},{secret}");
        assert!(with(&rotated, &[&cookie]).stdout.contains("right, by secret 2 of 2: an older one"));
        assert_eq!(with(&rotated, &[&cookie, "--json"]).json()["signature"]["secret"], 2);
        let forged = format!("{}x", &cookie[..cookie.len() - 1]);
        let failures = [
            (with(other, &[&cookie]), 1, "the signature is wrong"),
            (with(&rotated, &[&forged, "--json"]), 1, "the signature is wrong"),
            (with(&secret, &["s:nonsense"]), 1, "the signature is wrong"),
            (with(&secret, &["theme=dark"]), 2, "--cookie-name"),
            (with(&secret, &[&cookie, "--cookie-name", "sid"]), 2, "no cookie called sid"),
            (with("short", &[&cookie]), 2, "--allow-short-secret"),
            (place.ask(&["inspect", "nobody"]), 1, "no session nobody"),
            (place.ask(&["inspect", ""]), 2, "an id has"),
        ];
        for (said, code, why) in &failures {
            assert_eq!((said.code, said.stdout.as_str()), (*code, ""), "{}", said.stderr);
            assert!(said.stderr.contains(why), "{}", said.stderr);
        }
        // A right signature, and nothing behind it.
        place.server.curl("/v1/session", &["-X", "DELETE", "-H", &format!("Cookie: {cookie}")]);
        let gone = with(&secret, &[&cookie]);
        assert!(gone.code == 1 && gone.stderr.contains("the signature is right, but"), "{}", gone.stderr);
        let errors: String = failures.iter().map(|(said, ..)| said.stderr.as_str()).chain([&*gone.stderr]).collect();
        hunt(&errors, &[cookie, forged], "inspect");
        assert!(!errors.contains(&secret) && !errors.contains(other));
    }
}

/// As it was before, to the millisecond of its touch.
#[test]
fn looking_changes_nothing() {
    for place in Place::both() {
        let cookie = place.issue(r#"{"user_id":"ada","idle_timeout_ms":1000000}"#);
        let look = || place.ask(&["inspect", id(&cookie), "--json", "--touch-after", "0"]).json();
        let mut before = look();
        std::thread::sleep(std::time::Duration::from_millis(20));
        for args in [&["ls", "--user", "ada"][..], &["stats"], &["doctor"], &["purge"]] {
            assert_eq!(place.ask(args).code, 0, "{args:?}");
        }
        let mut after = look();
        assert!(before["store_ttl_ms"].as_i64() > after["store_ttl_ms"].as_i64());
        for document in [&mut before, &mut after] {
            // Redis tells what remains, within a few milliseconds.
            document["store_ttl_ms"].take();
            document["store_expires_at"].take();
        }
        assert_eq!(before, after);
    }
}

#[test]
fn a_users_sessions_are_listed_and_revoked() {
    for place in Place::both() {
        let none = place.ask(&["ls", "--user", "ada"]);
        assert_eq!((none.code, none.stdout.as_str()), (0, "0 sessions\n"));
        let long = place.issue(r#"{"user_id":"ada","idle_timeout_ms":864000000,"client":{"ip":"192.0.2.7"}}"#);
        let short = place.issue(r#"{"user_id":"ada","idle_timeout_ms":60000}"#);
        let middle = place.issue(r#"{"user_id":"ada"}"#);
        let eve = place.issue(r#"{"user_id":"eve"}"#);
        let listed = place.ask(&["ls", "--user", "ada", "--json"]).json();
        let ids: Vec<_> =
            listed["sessions"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [id(&long), id(&middle), id(&short)]);
        assert_eq!((&listed["user_id"], &listed["more"]), (&"ada".into(), &false.into()));
        assert_eq!(listed["sessions"][0]["client"]["ip"], "192.0.2.7");
        assert_eq!(place.ask(&["ls", "--user", "ada", "--limit", "2", "--json"]).json()["more"], true);
        let table = place.ask(&["ls", "--user", "ada", "--limit", "1"]).stdout;
        assert!(table.contains(id(&long)) && !table.contains(id(&short)) && table.contains("--limit"), "{table}");
        assert!(table.contains("192.0.2.7") && table.contains("in 9days 23h"), "{table}");
        // One; again; all but one; all.
        assert_eq!(place.ask(&["revoke", id(&short)]).stdout, "1 session ended\n");
        let again = place.ask(&["revoke", id(&short)]);
        assert_eq!((again.code, again.stdout.as_str()), (0, "0 sessions ended\n"));
        assert_eq!(place.ask(&["revoke", "--user", "ada", "--except", id(&middle)]).stdout, "1 session ended\n");
        assert!(place.server.resolve(&middle).starts_with("HTTP/1.1 200"));
        assert!(place.server.resolve(&long).starts_with("HTTP/1.1 401"));
        assert_eq!(place.ask(&["revoke", "--user", "ada", "--json"]).json()["revoked"], 1);
        assert!(place.server.resolve(&middle).starts_with("HTTP/1.1 401"));
        assert!(place.server.resolve(&eve).starts_with("HTTP/1.1 200"));
        for (args, why) in [
            (&["revoke"][..], "--user"),
            (&["revoke", id(&eve), "--user", "eve"], "cannot be used with"),
            (&["revoke", id(&eve), "--except", id(&eve)], "cannot be used with"),
            (&["revoke", &eve[12..]], "sessiond inspect"),
            (&["revoke", "--user", ""], "a user id has"),
            (&["ls"], "--user"),
        ] {
            let said = place.ask(args);
            assert!(said.code == 2 && said.stderr.contains(why), "{args:?}: {}", said.stderr);
            hunt(&said.stderr, std::slice::from_ref(&eve), "revoke");
        }
        assert!(place.server.resolve(&eve).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn stats_count_and_purge_frees() {
    for place in Place::both() {
        for user in ["ada", "ada", "eve"] {
            place.issue(&format!(r#"{{"user_id":"{user}"}}"#));
        }
        place.issue(r#"{"data":{"cart":[]},"idle_timeout_ms":60000}"#);
        place.issue(r#"{"user_id":"ada","idle_timeout_ms":1000}"#);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let stats = place.ask(&["stats", "--json"]).json();
        for (name, count) in
            [("sessions", 4), ("with_user", 3), ("users", 2), ("expire_within_1h", 1), ("without_expiry", 0)]
        {
            assert_eq!(stats[name], count, "{name}: {stats}");
        }
        assert!(place.ask(&["stats"]).stdout.contains("live sessions      4\n"));
        let purged = place.ask(&["purge", "--json"]).json();
        // Redis drops it by itself; its entry was pruned, if not before by the inserts that followed.
        let row = u64::from(place.redis.is_none());
        assert_eq!((purged["expired"].as_u64(), purged["index_entries"].as_u64()), (Some(row), Some(1 - row)));
        let again = place.ask(&["purge"]).stdout;
        assert_eq!(again, "expired sessions freed  0\nindex entries dropped   0\n");
    }
}

/// What a session holds may come from anybody.
#[test]
fn nothing_is_printed_that_a_terminal_obeys() {
    let wild =
        r#"{"user_id":"a\u001b[31mda","data":{"x\u001b":"\u009b2J\u202e"},"client":{"label":"\u001b]0;x\u0007"}}"#;
    for place in Place::both() {
        let cookie = place.issue(wild);
        let user = "a\u{1b}[31mda";
        let commands: [&[&str]; 6] = [
            &["inspect", &cookie],
            &["inspect", "no\u{1b}body"],
            &["ls", "--user", user],
            &["stats"],
            &["doctor"],
            &["revoke", "--user", user],
        ];
        for args in commands {
            for json in [&[][..], &["--json"]] {
                let said = place.ask(&[args, json].concat());
                let obeyed = |char: char| (char.is_control() && char != '\n') || char == '\u{202e}';
                assert!(!said.stdout.contains(obeyed), "{args:?}: {:?}", said.stdout);
                assert!(!said.stderr.contains(obeyed), "{args:?}: {:?}", said.stderr);
            }
        }
    }
}

#[test]
fn what_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 6] =
        [&["inspect", "x"], &["ls", "--user", "ada"], &["revoke", "x"], &["stats"], &["doctor"], &["purge"]];
    for args in commands {
        let said = Said::from(run(folder.path(), args));
        assert!(said.code == 2 && said.stderr.contains("no database at sessiond.db"), "{args:?}: {}", said.stderr);
        let said = Said::from(run(folder.path(), &[args, &["--store", "redis+unix:///nowhere/redis.sock"]].concat()));
        assert!(said.code == 2 && said.stderr.contains("the store is unavailable"), "{args:?}: {}", said.stderr);
        assert_eq!(said.stdout, "");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let place = Place::sqlite();
    let cookie = place.issue(r#"{"user_id":"ada"}"#);
    let secret = place.folder.path().join("sessiond.db.secret");
    std::fs::remove_file(&secret).unwrap();
    let said = place.ask(&["inspect", &cookie]);
    assert!(said.code == 2 && said.stderr.contains("--secret-file"), "{}", said.stderr);
    assert!(!secret.exists());
    assert_eq!(place.ask(&["inspect", id(&cookie)]).code, 0, "an id needs no secret");
}

/// The environment of a service serves its ops commands: also what is empty, and what only serving needs.
#[test]
fn the_services_own_environment_will_do() {
    let place = Place::sqlite();
    place.issue(r#"{"data":{"passport":{"user":"ada"}}}"#);
    let env = [
        ("SESSIOND_LISTEN", "0.0.0.0:8080"),
        ("SESSIOND_COOKIE_DOMAIN", ""),
        ("SESSIOND_IDLE_TIMEOUT", "1h"),
        ("SESSIOND_LIFETIME", ""),
        ("SESSIOND_USER_POINTER", "/passport/user"),
    ];
    let said = place.ask_with(&["stats", "--json", "--max-connections", "7"], &env, "");
    assert_eq!(said.json()["with_user"], 1, "{}", said.stderr);
    // The list was written under another rule, and doctor says so.
    let said = place.ask_with(&["doctor"], &env, "");
    assert!(said.code == 1 && said.stdout.contains("problem  unlisted_sessions"), "{}", said.stdout);
}

#[test]
fn help_shows_what_a_command_needs() {
    let say = |args: &[&str]| Said::from(run(Path::new("/"), args)).stdout;
    for name in ["inspect", "ls", "revoke", "stats", "doctor", "purge", "adopt"] {
        let help = say(&[name, "--help"]);
        assert!(help.contains("--store") && help.contains("--json") && help.contains("Exits 0"), "{help}");
        assert!(!help.contains("--listen") && !help.contains("--check-config"), "{help}");
        assert_eq!(help.contains("--secret-file"), name == "inspect", "{help}");
        assert!(help.replace('\n', " ").trim_end().ends_with("under the service's own rules."), "{help}");
        let page = say(&["manual", name]);
        assert!(page.contains(&format!(".TH sessiond-{name} 1")), "{page}");
    }
    let page = say(&["manual"]);
    assert!(page.contains(".TH sessiond 1") && page.contains("SESSIOND_STORE") && page.contains("doctor"), "{page}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(say(&["completions", shell]).contains("doctor"), "{shell}");
    }
    assert_eq!(Said::from(run(Path::new("/"), &["manual", "nothing"])).code, 1);
}
