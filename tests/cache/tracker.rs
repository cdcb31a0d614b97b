//! What the near-cache makes of what Redis says, in whatever order and in whatever pieces it comes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sessiond::clock::Clock;
use sessiond::store::{self, Cache, Found, Keyspace, Limits, Store, Watcher};
use tokio::time::sleep;

use crate::fake::{Fake, Script, invalidated};

const MAX_STALENESS: Duration = Duration::from_millis(300);
const PONG: &[u8] = b"+PONG\r\n";
const FLUSHED: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// A cache, and what it was told.
struct Told {
    cache: Cache<Found>,
    notes: Mutex<Vec<String>>,
}

impl Told {
    fn note(&self, what: &str) {
        self.notes.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap())
    }

    fn is_told(&self, what: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note == what)
    }
}

impl Watcher for Told {
    fn changed(&self, id: &str) {
        self.cache.changed(id);
        self.note(id);
    }

    fn doubt(&self) {
        self.cache.doubt();
        self.note("doubt");
    }

    fn current(&self, at: Instant) {
        self.cache.current(at);
        self.note("current");
    }

    fn max_staleness(&self) -> Duration {
        self.cache.max_staleness()
    }
}

struct Fixture {
    fake: Fake,
    store: Arc<dyn Store>,
    told: Arc<Told>,
}

impl Fixture {
    /// A tracker that has begun to track.
    async fn new() -> Self {
        let fake = Fake::start();
        let store = store::open(&fake.url().parse().unwrap(), &Keyspace::default()).await.unwrap();
        let limits = Limits { bytes: 1024 * 1024, max_staleness: MAX_STALENESS };
        let told = Arc::new(Told { cache: Cache::new(limits), notes: Mutex::default() });
        store.watch(Arc::clone(&told) as Arc<dyn Watcher>);
        let fixture = Self { fake, store, told };
        fixture.wait_for("current").await;
        fixture
    }

    fn script(&self) -> &Script {
        &self.fake.script
    }

    async fn wait_for(&self, what: &str) {
        self.script().wait(|_| self.told.is_told(what)).await;
    }

    /// Has the next PING wait for its answer, and forgets what was told.
    async fn hold_a_ping(&self) {
        self.script().hold_pongs.store(true, Ordering::SeqCst);
        self.script().wait(|script| script.held_pings.load(Ordering::SeqCst) > 0).await;
        self.told.take();
    }

    /// Reads an entry as a resolve does: what is read may be kept.
    async fn read(&self, id: &str) {
        let ticket = self.told.cache.ask(id).await;
        let found = self.store.find(id, Clock::system().now()).await.unwrap().unwrap();
        ticket.fill(found, 100);
    }

    fn set(&self, id: &str, value: &str) {
        self.script().values.lock().unwrap().insert(format!("sess:{id}"), value.into());
    }

    fn kept(&self, id: &str) -> Option<String> {
        self.told.cache.get(id).map(|found| String::from_utf8(found.record).unwrap())
    }
}

#[tokio::test]
async fn a_pong_proves_the_pushes_before_it_also_in_one_segment() {
    let fixture = Fixture::new().await;
    fixture.hold_a_ping().await;
    fixture.script().say(&[&invalidated(&["sess:a", "sess:b"]), PONG].concat());
    fixture.wait_for("current").await;
    assert_eq!(fixture.told.take(), ["a", "b", "current"]);
}

#[tokio::test]
async fn a_push_in_pieces_is_told_when_it_is_whole() {
    let fixture = Fixture::new().await;
    fixture.hold_a_ping().await;
    let bytes = [&invalidated(&["sess:a"]), PONG].concat();
    for (at, byte) in bytes.iter().enumerate() {
        fixture.script().say(&[*byte]);
        sleep(Duration::from_millis(1)).await;
        let whole = at + 1 >= bytes.len() - PONG.len();
        assert!(whole || fixture.told.take().is_empty(), "after {at} bytes");
    }
    fixture.wait_for("current").await;
    assert_eq!(fixture.told.take(), ["a", "current"]);
}

#[tokio::test]
async fn a_reply_that_a_push_overtakes_is_not_kept() {
    let fixture = Fixture::new().await;
    fixture.set("a", "old");
    for overtaken in [false, true] {
        fixture.script().hold_gets.store(true, Ordering::SeqCst);
        fixture.script().held_gets.store(0, Ordering::SeqCst);
        fixture.told.take();
        tokio::join!(fixture.read("a"), async {
            fixture.script().wait(|script| script.held_gets.load(Ordering::SeqCst) > 0).await;
            if overtaken {
                fixture.set("a", "new");
                fixture.script().say(&invalidated(&["sess:a"]));
                fixture.wait_for("a").await;
            }
            fixture.script().hold_gets.store(false, Ordering::SeqCst);
        });
        assert_eq!(fixture.kept("a").as_deref(), (!overtaken).then_some("old"));
    }
    fixture.read("a").await;
    assert_eq!(fixture.kept("a").as_deref(), Some("new"));
}

#[tokio::test]
async fn a_flush_has_everything_forgotten() {
    let fixture = Fixture::new().await;
    fixture.set("a", "old");
    fixture.read("a").await;
    assert!(fixture.kept("a").is_some());
    fixture.told.take();
    fixture.script().say(FLUSHED);
    fixture.wait_for("doubt").await;
    assert_eq!(fixture.kept("a"), None);
    fixture.told.take();
    fixture.wait_for("current").await;
    assert_eq!(fixture.kept("a"), None);
}

#[tokio::test]
async fn what_was_read_between_two_connections_is_not_given_out() {
    let fixture = Fixture::new().await;
    fixture.set("a", "old");
    fixture.read("a").await;
    fixture.script().hold_trackers.store(true, Ordering::SeqCst);
    fixture.script().cut();
    fixture.script().wait(|script| script.held_trackers.load(Ordering::SeqCst) > 0).await;
    assert_eq!(fixture.kept("a"), None);
    fixture.read("a").await;
    assert_eq!(fixture.kept("a"), None, "nothing is given out while nobody tracks");
    fixture.set("a", "new");
    fixture.told.take();
    fixture.script().hold_trackers.store(false, Ordering::SeqCst);
    fixture.wait_for("current").await;
    assert_eq!(fixture.kept("a"), None);
    fixture.read("a").await;
    assert_eq!(fixture.kept("a").as_deref(), Some("new"));
}

#[tokio::test]
async fn nothing_is_given_out_later_than_max_staleness_after_the_last_proof() {
    let fixture = Fixture::new().await;
    fixture.set("a", "old");
    fixture.read("a").await;
    fixture.hold_a_ping().await;
    let held = Instant::now();
    // A PING is sent before it is received.
    let proved = fixture.script().last_pong.lock().unwrap().unwrap();
    while held.elapsed() < MAX_STALENESS + Duration::from_millis(50) {
        let before = Instant::now();
        let kept = fixture.kept("a").is_some();
        assert!(!kept || before <= proved + MAX_STALENESS, "{:?} after the last proof", before - proved);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fixture.kept("a"), None);
    // A late one proves only what was when it was asked for.
    fixture.script().say(PONG);
    fixture.wait_for("current").await;
    assert_eq!(fixture.kept("a"), None);
    // Those that come in time prove that nothing was missed meanwhile.
    fixture.script().hold_pongs.store(false, Ordering::SeqCst);
    fixture.script().wait(|script| script.held_pings.load(Ordering::SeqCst) > 0).await;
    fixture.script().wait(|_| fixture.kept("a").is_some() || fixture.told.is_told("doubt")).await;
}

#[tokio::test]
async fn only_our_keys_are_told_and_what_is_not_understood_is_doubted() {
    let fixture = Fixture::new().await;
    fixture.hold_a_ping().await;
    fixture.script().say(&[&invalidated(&["other:a", "sess:a", "sess", ""]), PONG].concat());
    fixture.wait_for("current").await;
    assert_eq!(fixture.told.take(), ["a", "current"]);
    for odd in [
        &b">2\r\n$7\r\nunknown\r\n*0\r\n"[..],
        b">1\r\n$10\r\ninvalidate\r\n",
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n:1\r\n",
        b">2\r\n$10\r\ninvalidate\r\n$6\r\nsess:a\r\n",
    ] {
        fixture.told.take();
        fixture.script().say(odd);
        fixture.wait_for("doubt").await;
    }
}
