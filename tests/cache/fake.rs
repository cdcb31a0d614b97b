//! A Redis of which the test decides every answer, and when it comes.
//!
//! It says by itself what a client wants to hear on connecting. What else is asked over the connection for calls comes to
//! the test as a [`Call`], and each connection that wants to track as a [`Tracker`].

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::recorder::PATIENCE;

pub(crate) const OK: &str = "+OK\r\n";
pub(crate) const PONG: &str = "+PONG\r\n";
const INFO: &str = "$21\r\nredis_version:7.2.0\r\n\r\n";
const HELLO: &str = "%1\r\n$5\r\nproto\r\n:3\r\n";
/// A remaining time, which a read asks for together with the record.
const PTTL: &str = ":60000\r\n";

pub(crate) struct Fake {
    trackers: mpsc::UnboundedReceiver<Tracker>,
    calls: mpsc::UnboundedReceiver<Call>,
    listening: JoinHandle<()>,
    folder: TempDir,
}

/// A command that waits for its answer, and so does everything behind it. Dropped, it ends the connection.
pub(crate) struct Call {
    pub(crate) command: Vec<String>,
    answer: oneshot::Sender<String>,
}

/// A connection that asked to be told of keys. Dropped, it ends.
pub(crate) struct Tracker {
    /// How it asked.
    pub(crate) asked: Vec<String>,
    pings: mpsc::UnboundedReceiver<()>,
    out: OwnedWriteHalf,
}

/// What is handed to the test, from each connection.
#[derive(Clone)]
struct Hands {
    trackers: mpsc::UnboundedSender<Tracker>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("redis.sock")).unwrap();
        let ((trackers, of_trackers), (calls, of_calls)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let hands = Hands { trackers, calls };
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, write) = stream.into_split();
                tokio::spawn(serve(BufReader::new(read), write, hands.clone()));
            }
        });
        Self { trackers: of_trackers, calls: of_calls, listening, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}/redis.sock", self.folder.path().display())
    }

    /// The next connection that asks to track, and waits for [`OK`].
    pub(crate) async fn tracker(&mut self) -> Tracker {
        timeout(PATIENCE, self.trackers.recv()).await.expect("nobody wants to track").unwrap()
    }

    /// The next command.
    pub(crate) async fn call(&mut self) -> Call {
        timeout(PATIENCE, self.calls.recv()).await.expect("nobody calls").unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Call {
    pub(crate) fn answer(self, reply: impl Into<String>) {
        self.answer.send(reply.into()).unwrap();
    }
}

impl Tracker {
    /// Waits until it asks for a PONG.
    pub(crate) async fn ping(&mut self) {
        assert!(self.pings().await, "the connection has ended");
    }

    /// The same; false when it ends instead.
    pub(crate) async fn pings(&mut self) -> bool {
        timeout(PATIENCE, self.pings.recv()).await.expect("neither a PING nor the end").is_some()
    }

    /// In one piece: whoever reads the beginning reads the end.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.out.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Lets it track, and proves once that everything is told.
    pub(crate) async fn begin(&mut self) {
        assert!(self.begins().await, "the connection has ended");
    }

    /// The same; false when it ends instead.
    pub(crate) async fn begins(&mut self) -> bool {
        self.out.write_all(OK.as_bytes()).await.is_ok()
            && self.pings().await
            && self.out.write_all(PONG.as_bytes()).await.is_ok()
    }
}

/// What Redis pushes when these keys were written.
pub(crate) fn push(keys: &[&str]) -> String {
    let names: Vec<String> = keys.iter().map(|key| bulk(key)).collect();
    format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n{}", keys.len(), names.concat())
}

/// What Redis pushes when everything is flushed.
pub(crate) const FLUSHED: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

pub(crate) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Serves a connection for calls, until it turns out to be one that tracks.
async fn serve(mut read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf, hands: Hands) -> Option<()> {
    loop {
        let command = command(&mut read).await?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let reply = match *words {
            ["HELLO", "3", ..] => HELLO.into(),
            ["CLIENT", "SETINFO", ..] => OK.into(),
            ["CLIENT", "TRACKING", ..] => break hand_over(command, read, write, hands).await,
            ["PING"] => PONG.into(),
            ["INFO", ..] => INFO.into(),
            ["PTTL", _] => PTTL.into(),
            _ => {
                let (answer, awaited) = oneshot::channel();
                hands.calls.send(Call { command, answer }).ok()?;
                awaited.await.ok()?
            }
        };
        write.write_all(reply.as_bytes()).await.ok()?;
    }
}

/// From here on the test answers, and all that it is asked is PING.
async fn hand_over(
    asked: Vec<String>,
    mut read: BufReader<OwnedReadHalf>,
    out: OwnedWriteHalf,
    hands: Hands,
) -> Option<()> {
    let (pinged, pings) = mpsc::unbounded_channel();
    hands.trackers.send(Tracker { asked, pings, out }).ok()?;
    loop {
        assert_eq!(command(&mut read).await?, ["PING"]);
        pinged.send(()).ok()?;
    }
}

/// `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`; None when the connection has ended.
async fn command(read: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(read).await? {
        let mut word = vec![0; number(read).await? + 2];
        read.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).unwrap());
    }
    Some(words)
}

/// A length, behind its sign and before the end of the line.
async fn number(read: &mut BufReader<OwnedReadHalf>) -> Option<usize> {
    let mut line = String::new();
    read.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}
