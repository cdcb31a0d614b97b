//! A link between a process and its Redis: a unix socket that passes everything on, late, in pieces, or not at all.
//!
//! Each direction of a connection preserves its order. Connections do not wait for each other, so what is sent later over
//! one may arrive earlier than what is sent over another. What was sent before a caller closes its connection still arrives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// The most that is passed on at once, in bytes.
const PIECE: usize = 8 * 1024;
/// How many pieces are under way in one direction of a connection; then the sender waits.
const UNDER_WAY: usize = 256;

#[derive(Clone, Copy)]
pub(crate) enum Direction {
    ToRedis,
    FromRedis,
}

/// How a link treats each direction of each connection. The default passes everything on at once.
#[derive(Clone, Copy, Default)]
pub(crate) struct Profile {
    /// The longest delay of a piece; each has a random one.
    pub(crate) delay: Duration,
    /// How long 8 KiB take.
    pub(crate) per_piece: Duration,
    /// One piece in so many cuts its connection, and everything under way on it is lost. 0: none does.
    pub(crate) cut_one_in: u32,
}

pub(crate) struct SlowLink {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    folder: TempDir,
}

struct Shared {
    profile: Profile,
    socket: watch::Sender<PathBuf>,
    /// How many bytes may still pass in each direction. `None`: all.
    allowances: [watch::Sender<Option<usize>>; 2],
    /// How often all connections were cut on command.
    cuts: watch::Sender<usize>,
}

impl SlowLink {
    /// Leads to the Redis on `socket`. The same `seed` gives the same delays and cuts to the same pieces.
    pub(crate) fn to(socket: PathBuf, profile: Profile, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("link.sock")).unwrap();
        let shared = Arc::new(Shared {
            profile,
            socket: watch::Sender::new(socket),
            allowances: [watch::Sender::new(None), watch::Sender::new(None)],
            cuts: watch::Sender::new(0),
        });
        let (for_each, mut random) = (Arc::clone(&shared), Rng::with_seed(seed));
        let accepting = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&for_each).connect(caller, random.fork()));
            }
        });
        Self { shared, accepting, folder }
    }

    /// The URL for `--store`.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}/link.sock", self.folder.path().display())
    }

    /// Further connections lead to another Redis.
    #[allow(dead_code)]
    pub(crate) fn lead_to(&self, socket: PathBuf) {
        self.shared.socket.send_replace(socket);
    }

    /// Holds back everything in one direction.
    #[allow(dead_code)]
    pub(crate) fn hold(&self, direction: Direction) {
        self.hold_after(direction, 0);
    }

    /// Holds back everything in one direction once so many more bytes have passed.
    #[allow(dead_code)]
    pub(crate) fn hold_after(&self, direction: Direction, bytes: usize) {
        self.shared.allowances[direction as usize].send_replace(Some(bytes));
    }

    /// Waits until as many bytes have passed as [`Self::hold_after`] allows.
    #[allow(dead_code)]
    pub(crate) async fn until_held(&self, direction: Direction) {
        let mut allowance = self.shared.allowances[direction as usize].subscribe();
        let _ = allowance.wait_for(|left| *left == Some(0)).await;
    }

    /// Passes on, in order, what was held back, and everything from now on.
    #[allow(dead_code)]
    pub(crate) fn release(&self, direction: Direction) {
        self.shared.allowances[direction as usize].send_replace(None);
    }

    /// Cuts every connection; everything under way on them is lost.
    #[allow(dead_code)]
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// Everything under way on the connection is lost.
struct Cut;

impl Shared {
    async fn connect(self: Arc<Self>, caller: UnixStream, mut random: Rng) {
        let mut cuts = self.cuts.subscribe();
        let socket = self.socket.borrow().clone();
        let Ok(redis) = UnixStream::connect(socket).await else { return };
        let ((hear, tell), (said, ask)) = (caller.into_split(), redis.into_split());
        tokio::select! {
            _ = self.pass_on(Direction::ToRedis, hear, ask, random.fork()) => {}
            _ = self.pass_on(Direction::FromRedis, said, tell, random.fork()) => {}
            _ = cuts.changed() => {}
        }
    }

    /// Ends when `from` has ended and all of it has arrived, or with a cut.
    async fn pass_on(
        &self,
        direction: Direction,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut random: Rng,
    ) -> Result<(), Cut> {
        let Profile { delay, per_piece, cut_one_in } = self.profile;
        let (sent, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let send = async move {
            let (mut buffer, mut arrival) = (vec![0; PIECE], Instant::now());
            while let Some(count) = from.read(&mut buffer).await.ok().filter(|count| *count > 0) {
                if cut_one_in > 0 && random.u32(..cut_one_in) == 0 {
                    return Err(Cut);
                }
                let late = Instant::now() + delay.mul_f64(random.f64());
                arrival = late.max(arrival + per_piece.mul_f64(count as f64 / PIECE as f64));
                let _ = sent.send((arrival, buffer[..count].to_vec())).await;
            }
            Ok(())
        };
        let arrive = async {
            while let Some((arrival, piece)) = arriving.recv().await {
                // A sleep takes a millisecond at least.
                if arrival > Instant::now() {
                    sleep_until(arrival).await;
                }
                self.let_through(direction, &piece, &mut to).await;
            }
            Ok(())
        };
        tokio::try_join!(send, arrive).map(|_| ())
    }

    async fn let_through(&self, direction: Direction, mut piece: &[u8], to: &mut OwnedWriteHalf) {
        let allowance = &self.allowances[direction as usize];
        let mut released = allowance.subscribe();
        while !piece.is_empty() {
            let left = *allowance.borrow();
            let count = left.unwrap_or(usize::MAX).min(piece.len());
            // A receiver that has gone away is no reason to stop: what was sent still arrives at the other side.
            let _ = to.write_all(&piece[..count]).await;
            if left.is_some() && count > 0 {
                allowance.send_modify(|left| *left = left.map(|left| left.saturating_sub(count)));
            }
            piece = &piece[count..];
            if !piece.is_empty() {
                let _ = released.wait_for(|left| *left != Some(0)).await;
            }
        }
    }
}
