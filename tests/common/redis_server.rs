//! A real redis-server of the test's own, on a unix socket in a temporary folder.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ends with the test, and also when the test is killed.
pub(crate) struct RedisServer {
    child: Child,
    folder: TempDir,
}

impl RedisServer {
    /// # Panics
    /// When redis-server is missing: a test that needs a part and has none fails.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(&folder, &[]);
        let server = Self { child, folder };
        server.wait();
        server
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The URL for `--store`.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A connection for looking at the keys.
    #[allow(dead_code)]
    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// SIGKILL: gone at once, and everything in it.
    #[allow(dead_code)]
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
    }

    /// Back again, empty.
    #[allow(dead_code)]
    pub(crate) fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same, with further flags.
    #[allow(dead_code)]
    pub(crate) fn restart_with(&mut self, flags: &[&str]) {
        self.child = spawn(&self.folder, flags);
        self.wait();
    }

    /// Makes the Redis user of README.md, exactly as it says; returns the URL for that user.
    #[allow(dead_code)]
    pub(crate) fn documented_user(&self) -> String {
        let readme = include_str!("../../README.md");
        let line = readme.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).expect("the line of README.md");
        let rules: Vec<&str> = line.split(' ').collect();
        redis::cmd("ACL").arg("SETUSER").arg(&rules).exec(&mut self.connection()).unwrap();
        let password = rules.iter().find_map(|rule| rule.strip_prefix('>')).expect("a password");
        format!("{}?user={}&pass={password}", self.url(), rules[0])
    }

    /// SIGSTOP or SIGCONT.
    #[allow(dead_code)]
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    fn wait(&self) {
        let began = Instant::now();
        while redis::Client::open(self.url()).unwrap().get_connection().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, flags: &[&str]) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--save", "", "--appendonly", "no"])
        .arg("--unixsocket")
        .arg(folder.path().join("redis.sock"))
        .arg("--dir")
        .arg(folder.path())
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server and setpriv are needed: apt-get install redis-server util-linux")
}
