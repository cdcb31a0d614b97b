//! What an SQLite file can suffer while the service runs: a full disk, a deleted or replaced file, damage.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sessiond::{Sessiond, command, run};

const ADA: &str = r#"{"user_id":"ada","data":{"n":1}}"#;

/// Starts a service in a file system of `size` (as in 48m) of its own. Only that process sees it: look through
/// [`Sessiond::working_directory`]. A user namespace makes this possible without being root.
fn on_small_disk(folder: &Path, size: &str) -> Sessiond {
    let script = r#"mount -t tmpfs -o size="$1" tmpfs . && cd "$PWD" && shift && exec "$@""#;
    let plain = command(folder, &["--listen", "127.0.0.1:0"]);
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", script, "sh", size]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(folder);
    for (name, _) in plain.get_envs() {
        command.env_remove(name);
    }
    Sessiond::spawn(command)
}

/// Takes what room is left; the file that does.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("fill");
    let mut file = File::create(&path).unwrap();
    for size in [64 * 1024, 4096] {
        let chunk = vec![b'x'; size];
        loop {
            match file.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    path
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

fn issue(server: &Sessiond, body: &str) -> String {
    server.curl("/v1/sessions", &["--json", body])
}

/// Issues until the disk is full, which is soon.
fn issue_until_refused(server: &Sessiond) -> String {
    let body = format!(r#"{{"user_id":"eve","data":{{"text":"{}"}}}}"#, "x".repeat(60_000));
    for _ in 0..1000 {
        let answer = issue(server, &body);
        if status(&answer) != "201" {
            return answer;
        }
    }
    panic!("the disk is not full");
}

fn revoke(server: &Sessiond, cookie: &str) -> String {
    server.curl("/v1/session", &["-X", "DELETE", "-H", &format!("Cookie: {cookie}")])
}

/// Issues sessions for `ada` in one run of curl; their cookies.
fn issue_many(server: &Sessiond, number: usize) -> Vec<String> {
    let one = format!("url = {}\njson = {ADA:?}\n", server.url("/v1/sessions"));
    let answers = curl_many(&vec![one; number]);
    answers.iter().map(|answer| answer.split_once("201 ").expect(answer).1.split(';').next().unwrap().into()).collect()
}

/// Revokes sessions in one run of curl.
fn revoke_many(server: &Sessiond, cookies: &[String]) {
    let url = server.url("/v1/session");
    let one = |cookie: &String| format!("url = {url}\nrequest = DELETE\nheader = \"Cookie: {cookie}\"\n");
    let requests: Vec<_> = cookies.iter().map(one).collect();
    for answer in curl_many(&requests) {
        assert!(answer.starts_with("204 "), "{answer}: {}", server.log());
    }
}

/// The status and the cookie of each answer.
fn curl_many(requests: &[String]) -> Vec<String> {
    let output = "output = /dev/null\nwrite-out = \"%{http_code} %header{set-cookie}\\n\"\n";
    let mut curl =
        Command::new("curl").args(["-sS", "-K", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let complete = requests.iter().map(|request| format!("{request}{output}"));
    let config = complete.collect::<Vec<_>>().join("next\n");
    let mut stdin = curl.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(config.as_bytes()).unwrap());
    let output = curl.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), requests.len());
    answers
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn readyz_answers_503_while_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "48m");
    wait_for("ready", || status(&server.curl("/readyz", &[])) == "200");
    let session = server.issue();
    let filled = fill(&server.working_directory());
    let refused = issue_until_refused(&server);
    assert!(status(&refused) == "503" && refused.contains("store-unavailable"), "{refused}");
    wait_for("not ready", || status(&server.curl("/readyz", &[])) == "503");
    assert_eq!(status(&server.resolve(&session)), "200", "reads go on");
    fs::remove_file(filled).unwrap();
    wait_for("ready again", || status(&server.curl("/readyz", &[])) == "200");
    assert_eq!(status(&issue(&server, ADA)), "201");
    let log = server.log();
    assert_eq!(log.matches("the disk is full").count(), 2, "once when it is, once with the first request: {log}");
    assert_eq!(log.matches("the disk has room again").count(), 1, "{log}");
}

/// Also when nothing else is written.
#[test]
fn readyz_tries_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "48m");
    let reserve = server.working_directory().join("sessiond.db-reserve");
    wait_for("the reserve", || fs::metadata(&reserve).is_ok_and(|file| file.len() == 8 << 20));
    fill(&server.working_directory());
    let ready = server.curl("/readyz", &[]);
    assert_eq!(status(&ready), "503", "{ready}");
    assert!(!reserve.exists());
}

#[test]
fn a_full_disk_does_not_prevent_a_revoke() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "48m");
    wait_for("ready", || status(&server.curl("/readyz", &[])) == "200");
    let cookies = issue_many(&server, 300);
    fill(&server.working_directory());
    // The first write that the disk refuses is a revoke.
    revoke_many(&server, &cookies[..150]);
    assert_eq!(status(&issue_until_refused(&server)), "503");
    revoke_many(&server, &cookies[150..250]);
    for cookie in [&cookies[0], &cookies[149], &cookies[249]] {
        assert_eq!(status(&server.resolve(cookie)), "401");
    }
    let all = server.curl("/v1/users/ada/sessions", &["-X", "DELETE"]);
    assert!(all.contains(r#""revoked":50"#), "{all}");
}

/// Revokes write to the WAL too: their room is used again and again.
#[test]
fn more_is_revoked_on_a_full_disk_than_the_reserve_has_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "48m");
    wait_for("ready", || status(&server.curl("/readyz", &[])) == "200");
    let cookies = issue_many(&server, 1500);
    fill(&server.working_directory());
    assert_eq!(status(&issue_until_refused(&server)), "503");
    let wal = server.working_directory().join("sessiond.db-wal");
    let before = fs::metadata(&wal).unwrap().len();
    revoke_many(&server, &cookies);
    let grown = fs::metadata(&wal).unwrap().len() - before;
    assert!(grown < 12 << 20, "the WAL began anew: it grew by {grown}");
}

/// The file does not shrink, but what is free inside it is used again.
#[test]
fn room_inside_the_file_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "128m");
    wait_for("ready", || status(&server.curl("/readyz", &[])) == "200");
    let body = format!(r#"{{"user_id":"eve","data":{{"text":"{}"}}}}"#, "x".repeat(60_000));
    let request = format!("url = {}\njson = {body:?}\n", server.url("/v1/sessions"));
    assert!(curl_many(&vec![request; 350]).iter().all(|answer| answer.starts_with("201 ")), "{}", server.log());
    fill(&server.working_directory());
    assert_eq!(status(&issue_until_refused(&server)), "503");
    let all = server.curl("/v1/users/eve/sessions", &["-X", "DELETE"]);
    assert_eq!(status(&all), "200", "{all}");
    wait_for("ready again", || status(&server.curl("/readyz", &[])) == "200");
    for _ in 0..20 {
        assert_eq!(status(&issue(&server, &body)), "201", "{}", server.log());
    }
}

/// The reserve is missing for every process on the file.
#[test]
fn another_process_purges_and_revokes_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let server = on_small_disk(folder.path(), "48m");
    wait_for("ready", || status(&server.curl("/readyz", &[])) == "200");
    let short = r#"{"user_id":"bob","idle_timeout_ms":1000,"data":{"n":1}}"#;
    let short = format!("url = {}\njson = {short:?}\n", server.url("/v1/sessions"));
    let short = curl_many(&vec![short; 250]);
    assert!(short.iter().all(|answer| answer.starts_with("201 ")), "{short:?}");
    let session = server.issue();
    fill(&server.working_directory());
    assert_eq!(status(&issue_until_refused(&server)), "503");
    let beside = |flags: &[&str]| {
        let plain = command(folder.path(), flags);
        let mut command = Command::new("nsenter");
        command.args(["--user", "--preserve-credentials", "--mount", "--wd", "--target", &server.pid().to_string()]);
        command.arg("--").arg(plain.get_program()).args(plain.get_args());
        command
    };
    wait_for("expired", || server.curl("/v1/users/bob/sessions", &[]).contains(r#""sessions":[]"#));
    // Before another service starts, which purges too.
    let purged = beside(&["purge"]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&purged.stdout), String::from_utf8_lossy(&purged.stderr));
    assert!(purged.status.success() && said.contains("250"), "{said}");
    let other = Sessiond::spawn(beside(&["--listen", "127.0.0.1:0"]));
    wait_for("not ready", || status(&other.curl("/readyz", &[])) == "503");
    assert_eq!(status(&issue(&other, ADA)), "503");
    assert_eq!(status(&revoke(&other, &session)), "204", "{}", other.log());
}

/// Whoever would be told of a write must find it after a restart.
fn refuses_after(harm: impl Fn(&Path)) {
    // A near-cache answers no longer either.
    for flags in [&[][..], &["--cache", "16MiB"]] {
        refuses_with(flags, &harm);
    }
}

fn refuses_with(flags: &[&str], harm: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let server = Sessiond::start(folder.path(), flags);
    let session = server.issue();
    assert_eq!(status(&server.resolve(&session)), "200");
    assert_eq!(status(&server.curl("/readyz", &[])), "200");
    harm(folder.path());
    let refused = issue(&server, ADA);
    assert!(status(&refused) == "503" && refused.contains("store-unavailable"), "{refused}");
    wait_for("not ready", || status(&server.curl("/readyz", &[])) == "503");
    wait_for("reads end", || status(&server.resolve(&session)) == "503");
    assert_eq!(status(&revoke(&server, &session)), "503");
    let log = server.log();
    assert!(log.contains("restart the service"), "{log}");
    drop(server);
    let server = Sessiond::start(folder.path(), &[]);
    assert_eq!(status(&server.curl("/readyz", &[])), "200");
    assert_eq!(status(&issue(&server, ADA)), "201");
}

#[test]
fn a_deleted_file_is_noticed() {
    refuses_after(|folder| fs::remove_file(folder.join("sessiond.db")).unwrap());
}

#[test]
fn a_deleted_wal_is_noticed() {
    refuses_after(|folder| fs::remove_file(folder.join("sessiond.db-wal")).unwrap());
}

#[test]
fn a_replaced_file_is_noticed() {
    refuses_after(|folder| {
        let copy = folder.join("backup.db");
        fs::copy(folder.join("sessiond.db"), &copy).unwrap();
        fs::rename(copy, folder.join("sessiond.db")).unwrap();
    });
}

#[test]
fn a_damaged_file_is_unavailable_and_logged_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Sessiond::start(folder.path(), &[]);
    let session = server.issue();
    server.signal("-TERM");
    assert!(server.wait());
    // All pages but the first, which has the schema.
    let path = folder.path().join("sessiond.db");
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 8192);
    bytes[4096..].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let server = Sessiond::start(folder.path(), &[]);
    for answer in [issue(&server, ADA), server.resolve(&session), revoke(&server, &session)] {
        assert!(status(&answer) == "503" && answer.contains("store-unavailable"), "{answer}");
    }
    let ready = server.curl("/readyz", &[]);
    assert_eq!(status(&ready), "503", "{ready}");
    let log = server.log();
    assert!(log.contains("restore a backup") && log.contains(".recover"), "{log}");
    assert_eq!(log.matches("a request").count(), 1, "{log}");
}

#[test]
fn a_file_that_is_no_database_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sessiond.db"), vec![b'x'; 8192]).unwrap();
    let output = run(folder.path(), &["--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("restore a backup"), "{said}");
}
