//! What Redis pushes, and when, against what the watcher is told and the cache gives out. Nothing here hangs on timing:
//! the fake Redis sends the next byte when the test has seen what came of the last one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sessiond::clock::BootInstant;
use sessiond::store::{self, Error, Found, Keyspace, Store, Watcher};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fake::{FLUSHED, Fake, PONG, Tracker, bulk, push};
use super::recorder::{PATIENCE, Recorder, Told, changed};

use Told::{Current, Doubt};

/// So long that it plays no part.
const AGES: Duration = Duration::from_secs(600);
/// As short as a test can wait for, and longer than a test is held up.
const SHORT: Duration = Duration::from_millis(150);
/// A PING a second: a connection that has ended is made anew when it should have been asked.
const BETWEEN: Duration = Duration::from_secs(5);

const NOTHING: &str = "$-1\r\n";

/// A store that is watched, and the Redis that it is on.
struct Fixture {
    fake: Fake,
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
}

impl Fixture {
    async fn new(max_staleness: Duration) -> Self {
        let fake = Fake::start();
        let store = store::open(&fake.url().parse().unwrap(), &Keyspace::default()).await.unwrap();
        let recorder = Recorder::new(max_staleness);
        store.watch(Arc::clone(&recorder) as _);
        Self { fake, store, recorder }
    }

    /// With a connection that tracks, and has proved once that everything is told.
    async fn tracked(max_staleness: Duration) -> (Self, Tracker) {
        let mut fixture = Self::new(max_staleness).await;
        let mut tracker = fixture.fake.tracker().await;
        tracker.begin().await;
        fixture.recorder.until(&Current).await;
        assert_eq!(fixture.recorder.take(), [Doubt, Current]);
        (fixture, tracker)
    }

    fn get(&self, id: &str) -> Option<u32> {
        self.recorder.cache.get(id)
    }

    /// What a resolve does that finds nothing kept.
    fn read(&self, id: &'static str) -> JoinHandle<Result<Option<Found>, Error>> {
        let (store, recorder) = (Arc::clone(&self.store), Arc::clone(&self.recorder));
        tokio::spawn(async move {
            let ticket = recorder.cache.ask(id).await;
            let found = store.find(id, 0).await;
            if let Ok(Some(found)) = &found {
                ticket.fill(u32::try_from(found.record.len()).unwrap(), found.record.len());
            }
            found
        })
    }

    /// Has an entry kept, through the store, as the number of its bytes.
    async fn keep(&mut self, id: &'static str, record: &str) {
        let read = self.read(id);
        let get = self.fake.call().await;
        assert_eq!(get.command, ["GET", &format!("sess:{id}")]);
        get.answer(bulk(record));
        assert_eq!(read.await.unwrap().unwrap().unwrap().record, record.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_our_keys_that_are_tracked() {
    let mut fixture = Fixture::new(AGES).await;
    let tracker = fixture.fake.tracker().await;
    assert_eq!(tracker.asked, ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "sess:"]);
    assert!(fixture.recorder.take().is_empty(), "it does not track yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_before_a_pong_is_told_before_it() {
    let (fixture, mut tracker) = Fixture::tracked(Duration::from_millis(10)).await;
    for round in 0..200 {
        tracker.ping().await;
        // In one piece: whoever reads the one has read the other.
        let (one, other) = (format!("sess:{round}"), format!("sess:{round}+"));
        tracker.send(push(&[&one]) + &push(&[&one, &other]) + PONG).await;
        fixture.recorder.until(&Current).await;
        let (one, other) = (changed(&one[5..]), changed(&other[5..]));
        assert_eq!(fixture.recorder.take(), [one.clone(), one, other, Current], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_in_pieces_is_told_when_it_is_whole() {
    let (fixture, mut tracker) = Fixture::tracked(SHORT).await;
    tracker.ping().await;
    let (push, told) = (push(&["sess:a", "sess:b"]), [changed("a"), changed("b")]);
    for (at, byte) in push.bytes().enumerate() {
        assert!(fixture.recorder.take().is_empty(), "before it is whole");
        tracker.send([byte]).await;
        // So that it is read by now, mostly; nothing fails when it is not.
        if at % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    fixture.recorder.until(&told[1]).await;
    for byte in PONG.as_bytes() {
        assert!(!fixture.recorder.has(&Current), "before the PONG is whole");
        tracker.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.recorder.take(), [&told[..], &[Current]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_a_push_overtakes_is_not_kept() {
    let (mut fixture, mut tracker) = Fixture::tracked(AGES).await;
    // What changed, and whatever may have.
    for (push, told) in [(push(&["sess:a"]), changed("a")), (FLUSHED.into(), Doubt)] {
        let read = fixture.read("a");
        let get = fixture.fake.call().await;
        tracker.send(push).await;
        fixture.recorder.until(&told).await;
        get.answer(bulk("old"));
        assert!(read.await.unwrap().unwrap().is_some(), "whoever asked before is answered");
        fixture.recorder.take();
        fixture.recorder.cache.current(BootInstant::now());
        assert_eq!(fixture.get("a"), None);
    }
    fixture.keep("a", "as it is").await;
    assert_eq!(fixture.get("a"), Some(8), "a read that nothing overtakes is kept");
    // The other way round: the answer first.
    tracker.send(push(&["sess:a"])).await;
    fixture.recorder.until(&changed("a")).await;
    assert_eq!(fixture.get("a"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_is_forgotten() {
    let (mut fixture, mut tracker) = Fixture::tracked(SHORT).await;
    fixture.keep("a", "a").await;
    tracker.ping().await;
    tracker.send(FLUSHED).await;
    fixture.recorder.until(&Doubt).await;
    assert_eq!(fixture.get("a"), None);
    tracker.send(PONG).await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.get("a"), None, "also when it is current again");
    assert_eq!(fixture.recorder.cache.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_between_two_connections_is_not_given_out() {
    let (mut fixture, tracker) = Fixture::tracked(BETWEEN).await;
    fixture.keep("before", "a").await;
    assert_eq!(fixture.get("before"), Some(1));
    drop(tracker);
    fixture.recorder.until(&Doubt).await;
    assert_eq!(fixture.get("before"), None, "at once");
    // Redis has not been told to track yet: what it is asked now, and then changes, it tells nobody of.
    let mut tracker = fixture.fake.tracker().await;
    fixture.keep("between", "a").await;
    let read = fixture.read("across");
    let across = fixture.fake.call().await;
    for id in ["before", "between"] {
        assert_eq!(fixture.get(id), None, "{id}: nobody is watching");
    }
    fixture.recorder.take();
    tracker.begin().await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.recorder.take(), [Doubt, Current]);
    across.answer(bulk("a"));
    read.await.unwrap().unwrap();
    for id in ["before", "between", "across"] {
        assert_eq!(fixture.get(id), None, "{id}");
    }
    fixture.keep("after", "a").await;
    assert_eq!(fixture.get("after"), Some(1));
}

/// Waits until nothing is given out, and sees to it that nothing was when `proved` was too long ago.
async fn runs_out(fixture: &Fixture, id: &str, proved: Instant) {
    while {
        let began = Instant::now();
        let given = fixture.get(id).is_some();
        assert!(!given || began <= proved + SHORT, "given out {:?} after the last proof", proved.elapsed());
        given
    } {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_proves_nothing_of_the_time_after_its_ping() {
    let (mut fixture, mut tracker) = Fixture::tracked(SHORT).await;
    tracker.ping().await;
    // It had been sent when it came.
    let sent = Instant::now();
    tracker.send(PONG).await;
    fixture.recorder.until(&Current).await;
    fixture.keep("a", "a").await;
    tracker.ping().await;
    let late = Instant::now();
    runs_out(&fixture, "a", sent).await;
    tokio::time::sleep_until((late + SHORT).into()).await;
    fixture.recorder.take();
    tracker.send(PONG).await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.get("a"), None, "what it proves is of no use any more");
    // One in time is: nothing was missed.
    let mut sent = late;
    let again = async {
        while fixture.get("a").is_none() {
            tracker.ping().await;
            sent = Instant::now();
            fixture.recorder.take();
            tracker.send(PONG).await;
            fixture.recorder.until(&Current).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    runs_out(&fixture, "a", sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_pong_does_not_come_is_given_up() {
    let (mut fixture, mut tracker) = Fixture::tracked(SHORT).await;
    tracker.ping().await;
    let pinged = Instant::now();
    tracker.send(PONG).await;
    fixture.recorder.until(&Current).await;
    fixture.keep("a", "a").await;
    fixture.recorder.take();
    runs_out(&fixture, "a", pinged).await;
    fixture.recorder.until(&Doubt).await;
    assert_eq!(fixture.recorder.take(), [Doubt]);
    assert!(tracker.pings().await, "the PING that nobody answered");
    assert!(!tracker.pings().await, "it has ended");
    let mut next = fixture.fake.tracker().await;
    next.begin().await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.recorder.take(), [Doubt, Current]);
    assert_eq!(fixture.get("a"), None);
}

/// None that tracks, from the beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_out_where_redis_cannot_track() {
    let mut fixture = Fixture::new(AGES).await;
    for _ in 0..3 {
        let mut tracker = fixture.fake.tracker().await;
        fixture.keep("a", "a").await;
        tracker.send("-ERR unknown subcommand\r\n").await;
        fixture.recorder.until(&Doubt).await;
        assert_eq!(fixture.recorder.take(), [Doubt]);
        assert_eq!(fixture.get("a"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_others_are_none_of_ours() {
    let (fixture, mut tracker) = Fixture::tracked(SHORT).await;
    tracker.ping().await;
    // The third is no Unicode.
    let others = push(&["sess-user:u", "other:sess:a"]).into_bytes();
    let wild = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\nsess:\xff\xfe\r\n".to_vec();
    let ours = push(&["{sess:a}:revoked", "sess:a", "Sess:b"]).into_bytes();
    tracker.send([&others[..], &wild, &ours, PONG.as_bytes()].concat()).await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.recorder.take(), [changed("a"), Current]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_doubted() {
    let (mut fixture, mut tracker) = Fixture::tracked(SHORT).await;
    for push in [
        ">2\r\n$8\r\nsurprise\r\n*1\r\n$6\r\nsess:a\r\n",
        ">1\r\n$10\r\ninvalidate\r\n",
        ">2\r\n$10\r\ninvalidate\r\n$6\r\nsess:a\r\n",
        ">2\r\n$10\r\ninvalidate\r\n:1\r\n",
        ">3\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\nsess:a\r\n*1\r\n$6\r\nsess:b\r\n",
        ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    ] {
        fixture.keep("kept", "a").await;
        tracker.ping().await;
        tracker.send([push, PONG].concat()).await;
        fixture.recorder.until(&Doubt).await;
        fixture.recorder.until(&Current).await;
        assert_eq!(fixture.recorder.take(), [Doubt, Current], "{push:?}");
        assert_eq!(fixture.get("kept"), None, "{push:?}");
    }
    // A key that is no string, among others.
    tracker.ping().await;
    tracker.send([">2\r\n$10\r\ninvalidate\r\n*2\r\n:1\r\n$6\r\nsess:a\r\n", PONG].concat()).await;
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.recorder.take(), [Doubt, changed("a"), Current]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_process_writes_is_told_before_it_is_answered() {
    let (mut fixture, _tracker) = Fixture::tracked(AGES).await;
    fixture.keep("a", "a").await;
    let remove = |fixture: &Fixture| {
        let (store, recorder) = (Arc::clone(&fixture.store), Arc::clone(&fixture.recorder));
        tokio::spawn(async move {
            let removed = store.remove(&["a", "b"], None, 0).await;
            (removed.ok(), recorder.take())
        })
    };
    let removing = remove(&fixture);
    for _ in 0..2 {
        let del = fixture.fake.call().await;
        assert_eq!(del.command[0], "DEL");
        del.answer(":1\r\n");
    }
    assert_eq!(removing.await.unwrap(), (Some(2), vec![changed("a"), changed("b")]));
    assert_eq!(fixture.get("a"), None, "without a push");
    // Nobody knows what has become of it.
    fixture.keep("a", "a").await;
    let removing = remove(&fixture);
    drop(fixture.fake.call().await);
    let (removed, told) = removing.await.unwrap();
    assert_eq!(removed, None);
    assert!(told.contains(&changed("a")) && told.contains(&changed("b")), "{told:?}");
    assert_eq!(fixture.get("a"), None);
}

/// Also of a caller who hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_nobody_waits_for_is_told() {
    let (mut fixture, _tracker) = Fixture::tracked(AGES).await;
    fixture.keep("a", "a").await;
    let store = Arc::clone(&fixture.store);
    let removing = tokio::spawn(async move { store.remove(&["a"], None, 0).await });
    let del = fixture.fake.call().await;
    removing.abort();
    fixture.recorder.until(&changed("a")).await;
    assert_eq!(fixture.get("a"), None);
    del.answer(NOTHING);
}

/// The calls go elsewhere from now on, maybe: what tracks has to go with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_for_calls_is_another_redis() {
    let (mut fixture, mut tracker) = Fixture::tracked(AGES).await;
    fixture.keep("a", "a").await;
    let read = fixture.read("b");
    drop(fixture.fake.call().await);
    assert!(read.await.unwrap().is_err());
    fixture.recorder.until(&Doubt).await;
    assert_eq!(fixture.get("a"), None);
    assert!(!tracker.pings().await, "it is over, although nobody has ended it here");
    // The calls may get their new connection while it begins anew; then it does once more.
    while !fixture.fake.tracker().await.begins().await {}
    fixture.recorder.until(&Current).await;
    assert_eq!(fixture.get("a"), None);
}
