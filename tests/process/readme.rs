//! The transcripts of README and docs, run as they stand on both stores.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::contract::calls;
use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command};

const README: &str = include_str!("../../README.md");
const OPS: &str = include_str!("../../docs/cli.md");

/// A command of the transcript and what it prints.
struct Step {
    command: String,
    printed: String,
}

fn transcript(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in document.split("```console\n").skip(1) {
        for line in block.split_once("```").unwrap().0.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), printed: String::new() }),
                None => steps.last_mut().unwrap().printed += &format!("{line}\n"),
            }
        }
    }
    steps
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let found = if parts.peek().is_none() {
            rest.len().checked_sub(part.len()).filter(|_| rest.ends_with(part))
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn a_pattern_matches_what_it_says() {
    assert!(matches("a…c…", "abbbcd") && matches("a", "a") && matches("…", "") && matches("a…b", "axbxb"));
    assert!(!matches("a…c", "ab") && !matches("a", "ab") && !matches("ab…ba", "aba"));
}

/// On a server of its own; `env` is that of both.
fn run(document: &str, env: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["--listen", "127.0.0.1:0"]);
    command.envs(env.iter().copied());
    run_against(document, &Sessiond::spawn(command).address, env);
}

fn run_against(document: &str, address: &str, env: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let steps = transcript(document);
    assert!(steps.len() > 10);
    // One shell runs it all; a line of its own tells where each command's output ends.
    let mark = "--- end of a command\n";
    let script: String = steps
        .iter()
        .map(|step| format!("{}\necho '{}'\n", step.command.replace("127.0.0.1:8080", address), mark.trim_end()))
        .collect();
    let here = Path::new(env!("CARGO_BIN_EXE_sessiond")).parent().unwrap();
    let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(script).current_dir(folder.path()).env_clear().env("PATH", path).envs(env.iter().copied());
    let output = shell.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    let mut printed = stdout.split(mark);
    for step in &steps {
        let printed = printed.next().unwrap();
        assert!(matches(&step.printed, printed), "$ {}\nexpected: {}\nprinted: {printed}", step.command, step.printed);
    }
}

fn run_on_sqlite(document: &str) {
    let folder = tempfile::tempdir().unwrap();
    run(document, &[("SESSIOND_STORE", &format!("sqlite:{}", folder.path().join("sessiond.db").display()))]);
}

/// With AOF, or `sessiond doctor` would have something to say.
fn run_on_redis(document: &str) {
    let redis = RedisServer::start();
    redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("yes").exec(&mut redis.connection()).unwrap();
    run(document, &[("SESSIOND_STORE", &redis.url()), ("SESSIOND_SECRET", SECRET)]);
}

/// scripts/docker says where else to try it.
#[test]
fn the_transcript_works_on_sqlite() {
    match std::env::var("README_ADDRESS") {
        // The start only: what follows wants the store within reach.
        Ok(address) => run_against(README.split_once("## The API").unwrap().0, &address, &[]),
        Err(_) => run_on_sqlite(README),
    }
}

#[test]
fn the_transcript_works_on_redis() {
    run_on_redis(README);
}

#[test]
fn the_ops_commands_work_on_sqlite() {
    run_on_sqlite(OPS);
}

#[test]
fn the_ops_commands_work_on_redis() {
    run_on_redis(OPS);
}

/// Nobody adds a flag and forgets to say so, and nobody names one that is not there.
#[test]
fn every_flag_that_the_readme_names_is_there() {
    let help = crate::sessiond::run(std::env::temp_dir().as_path(), &["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = README.split('`').filter(|text| text.starts_with("--"));
    for flag in flags.map(|text| text.split(' ').next().unwrap()) {
        assert!(help.contains(flag), "{flag}");
    }
    let sample = include_str!("../../.env.sample");
    let named = |text: &str| -> BTreeSet<String> {
        let words = text.split(|char: char| !char.is_ascii_uppercase() && char != '_');
        words.filter(|word| word.starts_with("SESSIOND_") && *word != "SESSIOND_PORT").map(str::to_owned).collect()
    };
    assert_eq!(named(sample), named(&help), ".env.sample has every variable of --help, and no other");
    // SESSIOND_SECRET is required there, and the two exclude each other.
    let mut compose = passed_by_compose();
    assert!(compose.insert("SESSIOND_SECRET_FILE".into()), "the Compose file passes one of the two");
    assert_eq!(compose, named(&help), "docker-compose.yml passes every variable of --help, and no other");
}

/// The API table has every call of the contract, and no other.
#[test]
fn the_readme_has_every_call() {
    let table = README.split_once("| call | what it does | answers |").unwrap().1.split_once("\n\n").unwrap().0;
    let named: BTreeSet<&str> = table.split('`').collect();
    assert!(named.contains("/v1/sessions/{id}"), "the row of the calls by id");
    let calls = calls();
    for (method, path) in &calls {
        // A call by id is the same as by cookie, and probes have no method there.
        let path =
            path.strip_prefix("/v1/sessions/{id}").map_or((*path).to_owned(), |rest| format!("/v1/session{rest}"));
        assert!(
            named.contains(format!("{method} {path}").as_str()) || named.contains(path.as_str()),
            "{method} {path}"
        );
    }
    for (method, path) in named.iter().filter_map(|name| name.split_once(" /")) {
        let is_there = calls.iter().any(|(of, at)| of == method && at[1..] == *path);
        assert!(is_there, "{method} /{path}");
    }
}

/// The variables that docker-compose.yml sets for the service, or passes on to it.
fn passed_by_compose() -> BTreeSet<String> {
    let compose = include_str!("../../docker-compose.yml");
    let service = compose.split_once("\n  sessiond:\n").unwrap().1;
    let environment = service.split_once("\n    environment:\n").unwrap().1;
    let lines = environment.lines().take_while(|line| line.starts_with("      "));
    let names = lines.map(str::trim).filter(|line| !line.starts_with('#')).map(|line| line.split_once(':').unwrap().0);
    names.map(str::to_owned).collect()
}

/// The Compose file passes --otlp-endpoint on, which a build without the feature refuses.
#[test]
fn the_image_is_built_with_what_the_compose_file_offers() {
    let dockerfile = include_str!("../../Dockerfile");
    let builds: Vec<_> = dockerfile.lines().filter(|line| line.contains("cargo build")).collect();
    assert!(!builds.is_empty() && builds.iter().all(|line| line.contains("--features otlp")), "{builds:?}");
}

#[test]
fn a_file_that_holds_a_secret_is_made_private() {
    for text in [README, include_str!("../../docker-compose.yml"), include_str!("../../.env.sample")] {
        for line in text.lines().filter(|line| line.contains("> .env") || line.contains("secret >")) {
            assert!(line.contains("(umask 077; "), "{line}");
        }
    }
    assert!(README.contains("> .env"));
}
