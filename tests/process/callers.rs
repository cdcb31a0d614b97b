//! Callers' keys: made, handed over, rotated; and the listener for those who run the service.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sessiond::{Sessiond, command, run};

/// A key and its line.
pub(crate) fn keygen(folder: &Path, name: &str, scope: &str) -> (String, String) {
    let output = run(folder, &["keygen", "--name", name, "--scope", scope, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    (made["key"].as_str().unwrap().to_owned(), made["line"].as_str().unwrap().to_owned())
}

fn status(server: &Sessiond, path: &str, key: &str) -> String {
    let answer = server.curl(path, &["-H", &format!("Authorization: Bearer {key}")]);
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_key_is_printed_with_the_line_to_configure() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["keygen", "--name", "shop", "--scope", "session"]);
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (key, line) = (field("key "), field("line "));
    assert!(key.starts_with("sessiond_") && key.len() == 52 && line.starts_with("shop:session:"), "{said}");
    assert!(told.contains("SESSIOND_API_KEY") && !told.contains(&key), "{told}");
    for wrong in [["--name", "a b", "--scope", "admin"], ["--name", "a", "--scope", "root"]] {
        assert!(!run(folder.path(), &[&["keygen"][..], &wrong].concat()).status.success());
    }
    let server = Sessiond::start(folder.path(), &["--api-key", &line]);
    assert_eq!(status(&server, "/v1/session", &key), "401");
    assert_eq!(status(&server, "/v1/sessions/x", &key), "403");
    assert!(!server.log().contains(&key) && !server.log().contains(&line[13..]), "{}", server.log());
    assert!(server.log().contains("who has the key"), "{}", server.log());
}

#[test]
fn keys_are_rotated_by_a_file_and_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let (old, old_line) = keygen(folder.path(), "shop", "session");
    let (new, new_line) = keygen(folder.path(), "shop", "session");
    let (env, env_line) = keygen(folder.path(), "gate", "resolve");
    let file = folder.path().join("keys");
    fs::write(&file, format!("# the shop\n{old_line}\n")).unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--log-level", "trace", "--api-key-file", file.to_str().unwrap()];
    let mut with_env = command(folder.path(), &flags);
    let server = Sessiond::spawn({
        with_env.env("SESSIOND_API_KEY", env_line);
        with_env
    });
    let statuses = || [&old, &new, &env].map(|key| status(&server, "/v1/session", key));
    let hang_up = |text: &str, says: &str| {
        let before = server.log().matches(says).count();
        fs::write(&file, text).unwrap();
        server.signal("-HUP");
        let began = Instant::now();
        while server.log().matches(says).count() == before {
            assert!(began.elapsed() < Duration::from_secs(5), "{}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    assert_eq!(statuses(), ["401", "403", "401"]);
    hang_up(&format!("{old_line}\n\n{new_line}\r\n"), "read again");
    assert_eq!(statuses(), ["401", "401", "401"], "both are valid");
    hang_up(&new_line, "read again");
    assert_eq!(statuses(), ["403", "401", "401"]);
    // A file that is wrong changes nothing: least of all does it open the door.
    for wrong in [new.as_str(), "shop:session:zz", &format!("{new_line}\n{new_line}")] {
        hang_up(wrong, "stay as they were");
        assert_eq!(statuses(), ["403", "401", "401"]);
    }
    for secret in [&old, &new, &env] {
        assert!(!server.log().contains(secret.as_str()), "{}", server.log());
    }
}

#[test]
fn a_file_without_keys_opens_no_door() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    for text in ["", "# nobody\n"] {
        fs::write(&file, text).unwrap();
        let output = run(folder.path(), &["--api-key-file", file.to_str().unwrap()]);
        assert!(!output.status.success());
        assert!(String::from_utf8(output.stderr).unwrap().contains("sessiond keygen"));
    }
}

#[test]
fn those_who_run_it_have_a_listener_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ops.sock");
    let address = format!("unix:{}", socket.display());
    let (key, line) = keygen(folder.path(), "shop", "session");
    let server = Sessiond::start(folder.path(), &["--ops-addr", &address, "--api-key", &line]);
    let on_ops = |path: &str| server.curl(path, &["--unix-socket", socket.to_str().unwrap()]);
    for path in ["/livez", "/readyz", "/metrics", "/openapi.yaml", "/docs", "/docs/start.js"] {
        assert!(on_ops(path).starts_with("HTTP/1.1 200"), "{path}");
        assert!(server.curl(path, &[]).starts_with("HTTP/1.1 404"), "{path}");
    }
    assert!(on_ops("/v1/session").starts_with("HTTP/1.1 404"));
    assert_eq!(status(&server, "/v1/session", &key), "401");
    assert!(on_ops("/metrics").contains("route=\"/v1/session\",status=\"401\""));
    let health = |flags: &[&str]| run(folder.path(), &[&["healthcheck"], flags].concat()).status.success();
    assert!(health(&["--listen", &server.address, "--ops-addr", &address]));
    assert!(!health(&["--listen", &server.address]));
}

#[test]
fn with_keys_any_address_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let (_, line) = keygen(folder.path(), "shop", "session");
    assert!(run(folder.path(), &["--check-config", "--listen", "0.0.0.0:0", "--api-key", &line]).status.success());
    assert!(!run(folder.path(), &["--check-config", "--listen", "0.0.0.0:0"]).status.success());
}
