//! Where the ops commands are tried: a service, and its store and environment.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::sessiond::{SECRET, Sessiond, command, cookie};

/// A service, and the environment that it shares with the ops commands.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) server: Sessiond,
    env: Vec<(&'static str, String)>,
}

/// What a command did.
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect(&self.stderr)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    }
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::new(None, vec![], &[])
    }

    /// On a Redis as it should be.
    pub(crate) fn redis() -> Self {
        Self::on_redis(RedisServer::url, &[])
    }

    /// The same, as the Redis user of README.md.
    pub(crate) fn redis_as_documented_user(flags: &[&str]) -> Self {
        Self::on_redis(RedisServer::documented_user, flags)
    }

    fn on_redis(url: impl FnOnce(&RedisServer) -> String, flags: &[&str]) -> Self {
        let redis = RedisServer::start();
        redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("yes").exec(&mut redis.connection()).unwrap();
        let env = vec![("SESSIOND_STORE", url(&redis)), ("SESSIOND_SECRET", SECRET.into())];
        Self::new(Some(redis), env, flags)
    }

    fn new(redis: Option<RedisServer>, env: Vec<(&'static str, String)>, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path(), &[&["--listen", "127.0.0.1:0"], flags].concat());
        let server = Sessiond::spawn({
            command.envs(env.clone());
            command
        });
        Self { folder, redis, server, env }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::sqlite(), Self::redis()]
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Said {
        self.ask_with(args, &[], "")
    }

    pub(crate) fn ask_with(&self, args: &[&str], env: &[(&str, &str)], stdin: &str) -> Said {
        let mut command = command(self.folder.path(), args);
        command.envs(self.env.clone()).envs(env.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    pub(crate) fn issue(&self, body: &str) -> String {
        cookie(&self.server.curl("/v1/sessions", &["--json", body]))
    }
}
