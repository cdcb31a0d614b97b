//! A way to Redis that can be held up: Redis hears everything, and nobody hears Redis.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Way {
    held: watch::Sender<bool>,
    socket: watch::Sender<PathBuf>,
    listening: JoinHandle<()>,
    folder: TempDir,
}

impl Way {
    /// To the Redis on `socket`.
    pub(crate) fn to(socket: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("way.sock")).unwrap();
        let (held, of_each) = watch::channel(false);
        let (socket, leads_to) = watch::channel(socket);
        let listening = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let socket = leads_to.borrow().clone();
                tokio::spawn(pass(caller, socket, of_each.clone()));
            }
        });
        Self { held, socket, listening, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}/way.sock", self.folder.path().display())
    }

    /// From now on to another one; who is on the way already goes on to the first.
    pub(crate) fn lead_to(&self, socket: PathBuf) {
        self.socket.send_replace(socket);
    }

    /// Holds back what Redis says, or lets it through again, in order.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Until one of both ends it.
async fn pass(caller: UnixStream, socket: impl AsRef<Path>, held: watch::Receiver<bool>) {
    let Ok(redis) = UnixStream::connect(socket).await else { return };
    let ((mut hear, tell), (said, mut ask)) = (caller.into_split(), redis.into_split());
    tokio::select! {
        _ = copy(&mut hear, &mut ask) => {}
        _ = let_through(said, tell, held) => {}
    }
}

async fn let_through(mut said: OwnedReadHalf, mut tell: OwnedWriteHalf, mut held: watch::Receiver<bool>) -> Option<()> {
    let mut bytes = vec![0; 65_536];
    loop {
        let count = said.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
        held.wait_for(|held| !held).await.ok()?;
        tell.write_all(&bytes[..count]).await.ok()?;
    }
}
