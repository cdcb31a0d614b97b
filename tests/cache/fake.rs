//! A Redis that says what a test has it say, byte by byte, and when.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::time::{sleep, timeout};

pub(crate) struct Fake {
    pub(crate) script: Arc<Script>,
    folder: TempDir,
}

/// What the server does, and has seen.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) values: Mutex<HashMap<String, String>>,
    /// PINGs over the tracker's connection are counted, and not answered.
    pub(crate) hold_pongs: AtomicBool,
    /// GETs are counted, and answered later.
    pub(crate) hold_gets: AtomicBool,
    /// Trackers are counted, and let in later.
    pub(crate) hold_trackers: AtomicBool,
    pub(crate) held_trackers: AtomicUsize,
    pub(crate) held_pings: AtomicUsize,
    pub(crate) held_gets: AtomicUsize,
    /// When the last PING came that was answered.
    pub(crate) last_pong: Mutex<Option<Instant>>,
    tracker: Mutex<Option<UnboundedSender<Vec<u8>>>>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("fake.sock")).unwrap();
        let script = Arc::<Script>::default();
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { script, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("fake.sock").display())
    }
}

impl Script {
    /// Writes to the tracker's connection, in one segment.
    pub(crate) fn say(&self, bytes: &[u8]) {
        self.tracker.lock().unwrap().as_ref().unwrap().send(bytes.to_vec()).unwrap();
    }

    /// Ends the tracker's connection.
    pub(crate) fn cut(&self) {
        self.tracker.lock().unwrap().take();
    }

    /// Waits until `seen` is so.
    pub(crate) async fn wait(&self, seen: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !seen(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), waiting).await.expect("it is seen");
    }
}

/// What Redis pushes when these keys are written.
pub(crate) fn invalidated(keys: &[&str]) -> Vec<u8> {
    let keys: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect::<String>();
    format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n{keys}", keys.matches('$').count()).into_bytes()
}

async fn serve(stream: UnixStream, script: Arc<Script>) {
    let (mut reader, mut writer) = stream.into_split();
    let (say, mut said) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = said.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    // The sender of a tracker is in the script alone, so that it can be cut.
    let (mut say, mut tracks, mut unread) = (Some(say), false, Vec::new());
    while reader.read_buf(&mut unread).await.is_ok_and(|read| read > 0) {
        while let Some((command, length)) = command(&unread) {
            unread.drain(..length);
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            if words[0] == "HELLO" {
                if script.hold_trackers.load(Ordering::SeqCst) {
                    script.held_trackers.fetch_add(1, Ordering::SeqCst);
                    script.wait(|script| !script.hold_trackers.load(Ordering::SeqCst)).await;
                }
                tracks = true;
                script.tracker.lock().unwrap().replace(say.take().unwrap());
            }
            if let Some(answer) = answer(&words, tracks, &script).await {
                let say = say.clone().or_else(|| script.tracker.lock().unwrap().clone());
                let Some(Ok(())) = say.map(|say| say.send(answer.into_bytes())) else { return };
            }
        }
    }
}

/// None: not now.
async fn answer(words: &[&str], tracks: bool, script: &Script) -> Option<String> {
    Some(match words {
        ["HELLO", ..] => "%1\r\n$5\r\nproto\r\n:3\r\n".into(),
        ["INFO", ..] => "$22\r\nredis_version:7.0.15\r\n\r\n".into(),
        ["PING", ..] if tracks && script.hold_pongs.load(Ordering::SeqCst) => {
            script.held_pings.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        ["PING", ..] => {
            if tracks {
                *script.last_pong.lock().unwrap() = Some(Instant::now());
            }
            "+PONG\r\n".into()
        }
        ["GET", key] => {
            // As it is now, whenever the answer gets there.
            let value = script.values.lock().unwrap().get(*key).cloned();
            if script.hold_gets.load(Ordering::SeqCst) {
                script.held_gets.fetch_add(1, Ordering::SeqCst);
                script.wait(|script| !script.hold_gets.load(Ordering::SeqCst)).await;
            }
            value.map_or("$-1\r\n".into(), |value| format!("${}\r\n{value}\r\n", value.len()))
        }
        ["PTTL", _] => ":60000\r\n".into(),
        _ => "+OK\r\n".into(),
    })
}

/// The first whole command, and its length.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let line = |at: &mut usize| {
        let end = bytes.get(*at..)?.windows(2).position(|pair| pair == b"\r\n")? + *at;
        let line = std::str::from_utf8(&bytes[*at..end]).unwrap().to_owned();
        *at = end + 2;
        Some(line)
    };
    let number: usize = line(&mut at)?.strip_prefix('*').unwrap().parse().unwrap();
    let mut words = Vec::new();
    for _ in 0..number {
        let length: usize = line(&mut at)?.strip_prefix('$').unwrap().parse().unwrap();
        words.push(String::from_utf8(bytes.get(at..at + length)?.to_vec()).unwrap());
        at += length + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}
