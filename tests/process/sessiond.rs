//! A sessiond of the test's own, on a free port, in a folder of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const SECRET: &str = "a secret for tests of 32 bytes or more";

pub(crate) struct Sessiond {
    child: Child,
    /// Where it listens: `127.0.0.1:PORT` or `unix:PATH`.
    pub(crate) address: String,
    stderr: Arc<Mutex<String>>,
}

/// The command, without an environment of the tester's.
pub(crate) fn command(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_sessiond")]).args(flags).current_dir(folder);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SESSIOND_")) {
        command.env_remove(name);
    }
    command
}

/// The same for a user to whom the modes of files apply, as they do not to root.
pub(crate) fn without_privileges(folder: &Path, flags: &[&str]) -> Command {
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let binary = env!("CARGO_BIN_EXE_sessiond");
    let mut command = Command::new(if is_root { "setpriv" } else { binary });
    if is_root {
        command.args(["--inh-caps=-all", "--bounding-set=-all", binary]);
    }
    command.args(flags).current_dir(folder);
    command
}

/// Runs a command that ends.
pub(crate) fn run(folder: &Path, flags: &[&str]) -> Output {
    command(folder, flags).output().expect("setpriv is needed: apt-get install util-linux")
}

impl Sessiond {
    /// Starts it and waits until it listens. `flags` come after `--listen 127.0.0.1:0`.
    pub(crate) fn start(folder: &Path, flags: &[&str]) -> Self {
        let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
        Self::spawn(command(folder, &flags))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (seen, lines) = (Arc::clone(&stderr), BufReader::new(child.stderr.take().unwrap()).lines());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut seen = seen.lock().unwrap();
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        let mut process = Self { child, address: String::new(), stderr };
        let began = Instant::now();
        while process.address.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10), "it does not listen: {}", process.log());
            std::thread::sleep(Duration::from_millis(5));
            let log = process.log();
            let text = log.split_once(" listens on ").and_then(|(_, rest)| rest.split_once('\n'));
            let json = log.split_once("\"listen\":\"").and_then(|(_, rest)| rest.split_once('"'));
            if let Some((address, _)) = text.or(json) {
                process.address = address.to_owned();
            }
        }
        process
    }

    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its working directory, as it sees it.
    pub(crate) fn working_directory(&self) -> PathBuf {
        format!("/proc/{}/cwd", self.pid()).into()
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until it has ended; whether it did so of its own will.
    pub(crate) fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What curl prints, the head of the answer included.
    pub(crate) fn curl(&self, path: &str, args: &[&str]) -> String {
        let output = Command::new("curl").args(["-sSi", "-m", "30", &self.url(path)]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Issues a session for `ada`; gives back its cookie, `name=value`.
    pub(crate) fn issue(&self) -> String {
        cookie(&self.curl("/v1/sessions", &["--json", r#"{"user_id":"ada","data":{"n":1}}"#]))
    }

    pub(crate) fn resolve(&self, cookie: &str) -> String {
        self.curl("/v1/session", &["-H", &format!("Cookie: {cookie}")])
    }
}

/// `name=value` of the Set-Cookie header.
pub(crate) fn cookie(answer: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect(answer);
    line.split(';').next().unwrap().to_owned()
}

impl Drop for Sessiond {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
