//! The command line and the environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::sessiond::{SECRET, Sessiond, command, run};

/// Flags and what the refusal must say.
#[test]
fn bad_combinations_are_refused_at_start_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    fs::write(&short, "too short\n").unwrap();
    let short = short.to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--listen", "0.0.0.0:0"], "sessiond keygen"),
        (&["--listen", "[::]:0"], "--allow-no-key"),
        (&["--listen", "nowhere"], "127.0.0.1:8080"),
        (&["--listen", "unix:"], "unix:/run"),
        (&["--store", "redis://127.0.0.1"], "sessiond secret"),
        (&["--store", "rediss://:hunter2@127.0.0.1"], "sqlite:, redis:// and redis+unix://"),
        (&["--store", "mysql://hunter2"], "--store (SESSIOND_STORE)"),
        (&["--store", "sqlite:/no/such/folder/x.db"], "there is no folder /no/such/folder"),
        (&["--store", "redis://127.0.0.1:6379?db=hunter2"], "redis://127.0.0.1:6379/2"),
        (&["--store", "sqlite:x.db?mode=ro"], "sqlite:sessiond.db"),
        (&["--otlp-endpoint", "hunter2:4318"], "--otlp-endpoint"),
        (&["--otlp-endpoint", "ftp://u:hunter2@localhost"], "--otlp-endpoint"),
        (&["--secret", "hunter2"], "--allow-short-secret"),
        (&["--secret", SECRET, "--secret", ""], "number 2 is empty"),
        (&["--secret", SECRET, "--secret-file", short], "leave one out"),
        (&["--secret-file", short], "--allow-short-secret"),
        (&["--secret-file", "/no/such/file"], "/no/such/file"),
        (&["--cookie-same-site", "none", "--cookie-secure", "false"], "--cookie-secure true"),
        (&["--cookie-partitioned", "true", "--cookie-secure", "false"], "--cookie-secure true"),
        (&["--cookie-name", "__Host-sid", "--cookie-domain", "example.com"], "no --cookie-domain"),
        (&["--cookie-name", "a b"], "--cookie-name"),
        (&["--cookie-path", "app"], "--cookie-path"),
        (&["--idle-timeout", "31d"], "--max-idle-timeout"),
        (&["--lifetime", "30d", "--max-lifetime", "1d"], "--max-lifetime"),
        (&["--idle-timeout", "999"], "1s to 400d"),
        (&["--max-lifetime", "401d"], "1s to 400d"),
        (&["--idle-timeout", "soon"], "30s, 24h or 400d"),
        (&["--user-pointer", "passport/user"], "/passport/user"),
        (&["--user-pointer", "/cookie/user"], "keeps the name"),
        (&["--max-data-bytes", "99999999"], "4194304"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--key-prefix", ""], "--key-prefix"),
        (&["--api-key", "hunter2"], "NAME:SCOPE:HASH"),
        (&["--api-key", "shop:root:hunter2"], "resolve, session or admin"),
        (&["--api-key-file", "/no/such/file"], "/no/such/file"),
        (&["--max-sessions-per-user", "0"], "--max-sessions-per-user"),
        (&["--ops-addr", "nowhere"], "127.0.0.1:8080"),
    ];
    for (flags, says) in cases {
        for flags in [flags.to_vec(), [flags, &["--check-config"][..]].concat()] {
            let output = run(folder.path(), &flags);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
            assert!(said.contains(says), "{flags:?}: {said}");
            assert!(!said.contains("hunter2"), "{flags:?}: {said}");
        }
    }
}

/// `SESSIOND_SECRET=` is a secret that was forgotten, not one that was left out.
#[test]
fn an_empty_secret_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["--check-config"]).env("SESSIOND_SECRET", "").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("number 1 is empty"));
}

/// Nor is `SESSIOND_API_KEY=` a service that is open to everybody.
#[test]
fn an_empty_key_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["--check-config"]).env("SESSIOND_API_KEY", "").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("SESSIOND_API_KEY"));
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["--check-config"]);
    let output = command.env("SESSIOND_IDEL_TIMEOUT", "1h").env("SESSIOND_PORT", "tcp://x").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("SESSIOND_IDEL_TIMEOUT") && !said.contains("_PORT"), "{said}");
}

#[test]
fn no_password_in_a_collectors_url_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (args, url) in
        [(&["--help"][..], "http://u:hunter2@localhost:4318"), (&["--listen", "127.0.0.1:0"], "http://u:hunter2@[")]
    {
        let output = command(folder.path(), args).env("SESSIOND_OTLP_ENDPOINT", url).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8(said).unwrap().contains("hunter2"), "{args:?}");
    }
}

#[test]
fn check_config_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["--check-config"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(run(folder.path(), &["serve", "--check-config", "--idle-timeout", "1h"]).status.success());
}

/// With no flag at all: on SQLite in the current folder, with a secret that nobody else can read.
#[test]
fn the_default_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    for file in ["sessiond.db", "sessiond.db.secret"] {
        let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        assert!(server.log().contains(file), "{}", server.log());
    }
    assert!(server.log().contains("curl"), "{}", server.log());
    assert!(server.resolve(&server.issue()).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_environment_and_a_file_say_the_same_as_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets");
    fs::write(&file, format!("{SECRET}\r\n\nan old secret, with a comma, from an Express fleet\n")).unwrap();
    let mut with_env = command(folder.path(), &[]);
    with_env.envs([
        ("SESSIOND_LISTEN", "127.0.0.1:0"),
        ("SESSIOND_SECRET_FILE", file.to_str().unwrap()),
        ("SESSIOND_COOKIE_NAME", "sid"),
        ("SESSIOND_COOKIE_SECURE", "false"),
        ("SESSIOND_COOKIE_DOMAIN", ""),
        ("SESSIOND_USER_POINTER", ""),
        ("SESSIOND_LIFETIME", ""),
        ("SESSIOND_COOKIE_PRIORITY", ""),
        ("SESSIOND_ALLOW_NO_KEY", ""),
        ("SESSIOND_IDLE_TIMEOUT", "1h"),
        ("SESSIOND_LOG_FORMAT", "json"),
    ]);
    let server = Sessiond::spawn(with_env);
    let answer = server.curl("/v1/sessions", &["--json", r#"{"user_id":"ada"}"#]);
    assert!(answer.contains("\"idle_timeout_ms\":3600000") && answer.contains("set-cookie: sid=s%3A"), "{answer}");
    assert!(!answer.contains("Secure"), "{answer}");
    assert!(server.log().starts_with('{'), "{}", server.log());
}

#[test]
fn a_fresh_secret_is_good_enough() {
    let folder = tempfile::tempdir().unwrap();
    let secret = || String::from_utf8(run(folder.path(), &["secret"]).stdout).unwrap().trim().to_owned();
    let (one, other) = (secret(), secret());
    assert_ne!(one, other);
    assert!(run(folder.path(), &["--check-config", "--store", "redis://127.0.0.1", "--secret", &one]).status.success());
}

#[test]
fn words_are_understood_in_any_case() {
    let folder = tempfile::tempdir().unwrap();
    for (words, means) in [(["TRUE", "1", "yes", "Yes"], true), (["False", "0", "no", "NO"], false)] {
        for word in words {
            let variables =
                [("SESSIOND_COOKIE_SECURE", word), ("SESSIOND_ALLOW_NO_KEY", word), ("SESSIOND_RESAVE", word)];
            let flags = ["--check-config", "--listen", "0.0.0.0:1", "--cookie-partitioned", "yes"];
            let output = command(folder.path(), &flags).envs(variables).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let code = if means { 0 } else { 2 };
            assert_eq!(output.status.code(), Some(code), "{word}: {said}");
            // That it is refused is no matter of the word.
            assert_eq!(said.contains("--allow-no-key"), !means, "{word}: {said}");
        }
    }
    let names = [
        ("SESSIOND_LOG_LEVEL", "WARN"),
        ("SESSIOND_LOG_FORMAT", "Json"),
        ("SESSIOND_COOKIE_SAME_SITE", "Strict"),
        ("SESSIOND_COOKIE_PRIORITY", "HIGH"),
        ("SESSIOND_ON_LIMIT", "Evict-Idle"),
    ];
    let output = command(folder.path(), &["--check-config"]).envs(names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = command(folder.path(), &["--check-config", "--cookie-secure", "maybe"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("boolean"), "{said}");
}

#[test]
fn the_short_help_fits_on_a_screen() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["-h"][..], &["serve", "-h"]] {
        let help = String::from_utf8(run(folder.path(), command).stdout).unwrap();
        let widest = help.lines().map(str::len).max().unwrap();
        assert!(help.lines().count() <= 40 && widest <= 100, "{help}");
        for shown in ["--listen", "--store", "--secret", "--api-key", "--idle-timeout", "--check-config", "--help"] {
            assert!(help.contains(shown), "{shown}: {help}");
        }
        assert!(!help.contains("--tombstone"), "{help}");
    }
}

/// What an ops command may need, and nothing of what only the service does.
#[test]
fn the_help_of_an_ops_command_shows_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, shows_secrets) in [("stats", false), ("inspect", true)] {
        let help = String::from_utf8(run(folder.path(), &[name, "--help"]).stdout).unwrap();
        for shown in ["--store ", "--key-prefix", "--user-pointer", "--cookie-name", "--log-level", "--log-format"] {
            assert!(help.contains(shown), "{name} {shown}: {help}");
        }
        for hidden in ["--listen ", "--max-connections", "--cache ", "--otlp-endpoint", "--check-config"] {
            assert!(!help.contains(hidden), "{name} {hidden}: {help}");
        }
        assert_eq!(help.contains("--secret-file"), shows_secrets, "{name}: {help}");
    }
}

#[test]
fn help_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["--help"])
        .env("SESSIOND_SECRET", "hunter2")
        .env("SESSIOND_STORE", "redis://:hunter2@h")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(
        help.contains("healthcheck") && help.contains("SESSIOND_SECRET_FILE") && !help.contains("hunter2"),
        "{help}"
    );
}
