//! An address that leads to another Redis than before, while the first one goes on.

use std::sync::Arc;
use std::time::Duration;

use redis::Commands;
use sessiond::store::{self, Entry, Insertion, Keyspace, Store};
use tokio::time::{sleep, timeout};

use super::recorder::{PATIENCE, Recorder, Told};
use super::redis_server::RedisServer;
use super::slow_link::{Profile, SlowLink};

struct Moved {
    first: RedisServer,
    second: RedisServer,
    link: SlowLink,
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
}

impl Moved {
    /// Is followed on the first one; whoever connects now comes to the second.
    async fn new() -> Self {
        let (first, second) = (RedisServer::start(), RedisServer::start());
        let link = SlowLink::to(first.socket(), Profile::default(), 0);
        let store = store::open(&link.url().parse().unwrap(), &Keyspace::default()).await.unwrap();
        let recorder = Recorder::new(Duration::from_millis(300));
        store.watch(Arc::clone(&recorder) as _);
        recorder.until(&Told::Current).await;
        link.lead_to(second.socket());
        Self { first, second, link, store, recorder }
    }
}

/// Else the near-cache would keep what one of them says, and the other be the one that tells of its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_to_the_redis_that_tells_of_changes() {
    let Moved { first, second, link: _link, store, recorder } = Moved::new().await;
    let _: () = first.connection().set_ex("sess:old", "{}", 60).unwrap();
    let _: () = second.connection().set_ex("sess:new", "{}", 60).unwrap();
    recorder.take();
    // The tracker's connection alone ends.
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut first.connection()).unwrap();
    let tracks = |client: &&str| client.split(' ').any(|field| field.starts_with("flags=") && field.contains('t'));
    let tracker = clients.lines().find(tracks).unwrap();
    let id = tracker.split(' ').find_map(|field| field.strip_prefix("id=")).unwrap();
    let killed: usize = redis::cmd("CLIENT").arg(&["KILL", "ID", id]).query(&mut first.connection()).unwrap();
    assert_eq!(killed, 1);
    recorder.until(&Told::Doubt).await;
    recorder.take();
    recorder.until(&Told::Current).await;
    // From when on something may be kept again, all is asked of the second. Its connection may come a little later.
    let connected = async {
        while store.ping().await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, connected).await.expect("it is connected again");
    assert!(store.find("old", 1_000_000).await.unwrap().is_none());
    assert!(store.find("new", 1_000_000).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_has_become_a_replica_is_left() {
    let Moved { first, second, link: _link, store, .. } = Moved::new().await;
    redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec(&mut first.connection()).unwrap();
    let entry = || Entry { record: b"{}", user_id: None, expires_at: 2_000_000 };
    let written = async {
        while !matches!(store.insert("id", entry(), 1_000_000).await, Ok(Insertion::Done)) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("the one that takes writes is found");
    assert!(second.connection().exists::<_, bool>("sess:id").unwrap());
}
