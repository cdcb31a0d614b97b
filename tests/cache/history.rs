//! Histories over a real Redis: two processes resolve from their near-caches while sessions are revoked under every fault.
//! No resolve that begins more than max-staleness after a revoke was acknowledged says that the session is live; in the
//! process that revoked it, none at all.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::json;
use sessiond::clock::Clock;
use sessiond::session::{Answer, Answers, Change, Id, NewSession, Sessions, Touch};
use sessiond::store::{self, Keyspace, Limits};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::policy::{attributes, policy};
use crate::redis_server::RedisServer;

const MAX_STALENESS: Duration = Duration::from_millis(300);
const LIMITS: Limits = Limits { bytes: 16 * 1024 * 1024, max_staleness: MAX_STALENESS };
/// How many sessions there are at a time.
const SESSIONS: usize = 200;
/// How long a revoked session is still asked for.
const AFTERLIFE: Duration = Duration::from_secs(1);
const RESOLVERS: usize = 4;

struct World {
    redis: Mutex<RedisServer>,
    processes: [Process; 2],
    sessions: Mutex<Vec<Subject>>,
    stop: AtomicBool,
    hits: AtomicUsize,
    checked: AtomicUsize,
    /// How long after the acknowledgement the other process last said that the session was live.
    longest: Mutex<Duration>,
}

struct Process {
    sessions: Sessions,
    answers: Answers<()>,
}

#[derive(Clone)]
struct Subject {
    id: Id,
    ended: Option<Ended>,
}

/// When the end of a session was acknowledged, and by which process; None: by nobody, it was taken from Redis.
#[derive(Clone, Copy)]
struct Ended {
    at: Instant,
    by: Option<usize>,
}

impl World {
    async fn new(express: bool) -> Arc<Self> {
        let redis = RedisServer::start();
        let keyspace = Keyspace { tombstone: express.then_some(60_000), ..Keyspace::default() };
        let mut policy = policy();
        (policy.express_writes, policy.touch_after) = (express, 200);
        let process = async || {
            let store = store::open(&redis.url().parse().unwrap(), &keyspace).await.unwrap();
            let sessions = Sessions::new(store, policy.clone(), attributes(), Clock::system(), Arc::default());
            Process { answers: Answers::new(sessions.clone(), Some(LIMITS)), sessions }
        };
        let processes = [process().await, process().await];
        Arc::new(Self {
            redis: Mutex::new(redis),
            processes,
            sessions: Mutex::default(),
            stop: AtomicBool::new(false),
            hits: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            longest: Mutex::default(),
        })
    }

    fn redis(&self) -> MutexGuard<'_, RedisServer> {
        self.redis.lock().unwrap()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn random(&self) -> Option<(usize, Subject)> {
        let sessions = self.sessions.lock().unwrap();
        let at = random(sessions.len().max(1));
        Some((at, sessions.get(at)?.clone()))
    }

    /// Everything that is there has ended, by nobody's call.
    fn all_ended(&self) {
        let ended = Ended { at: Instant::now(), by: None };
        self.sessions.lock().unwrap().iter_mut().for_each(|subject| subject.ended = subject.ended.or(Some(ended)));
    }

    /// Keeps as many sessions coming.
    async fn issue(&self) {
        while self.goes_on() {
            let room = {
                let mut sessions = self.sessions.lock().unwrap();
                sessions.retain(|subject| subject.ended.is_none_or(|ended| ended.at.elapsed() < AFTERLIFE));
                SESSIONS.saturating_sub(sessions.iter().filter(|subject| subject.ended.is_none()).count())
            };
            for _ in 0..room {
                let new = NewSession { user_id: Some(format!("u{}", random(20))), ..NewSession::default() };
                if let Ok(Some(session)) = self.processes[random(2)].sessions.issue(new).await {
                    self.sessions.lock().unwrap().push(Subject { id: session.id, ended: None });
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn revoke(&self) {
        while self.goes_on() {
            if let Some((_, Subject { id, ended: None })) = self.random() {
                let by = random(2);
                if self.processes[by].sessions.revoke(&id).await.is_ok() {
                    let ended = Ended { at: Instant::now(), by: Some(by) };
                    let mut sessions = self.sessions.lock().unwrap();
                    let subject = sessions.iter_mut().find(|subject| subject.id == id);
                    subject.into_iter().for_each(|subject| subject.ended = subject.ended.or(Some(ended)));
                }
            }
            sleep(Duration::from_millis(3)).await;
        }
    }

    async fn update(&self) {
        while self.goes_on() {
            if let Some((_, subject)) = self.random() {
                let change = Change::Merge(json!({"n": random(1000)}));
                let _ = self.processes[random(2)].sessions.update(&subject.id, &change, |_| true).await;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The check.
    async fn resolve(&self, process: usize) {
        while self.goes_on() {
            let Some((_, subject)) = self.random() else {
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            let began = Instant::now();
            let answers = &self.processes[process].answers;
            let answer = answers.resolve(&subject.id, Touch::WhenDue, false, |_| ((), 500)).await;
            let Ok(Some(answer)) = answer else { continue };
            self.hits.fetch_add(usize::from(matches!(answer, Answer::Kept(..))), Ordering::Relaxed);
            // As it stood when it was asked for: what has ended since may be said to be live.
            if let Some(ended) = subject.ended {
                let late = began.saturating_duration_since(ended.at);
                assert_ne!(ended.by, Some(process), "live {late:?} after this process has revoked it");
                assert!(late <= MAX_STALENESS, "live {late:?} after it has ended");
                let mut longest = self.longest.lock().unwrap();
                *longest = longest.max(late);
            }
            self.checked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    }

    /// As an Express does it: saves, blindly, what it read at the beginning of a request.
    fn save_as_express(&self) {
        let mut connection = self.redis().connection();
        while self.goes_on() {
            let Some((_, subject)) = self.random() else { continue };
            let key = format!("sess:{}", subject.id);
            let Ok(record) = redis::cmd("GET").arg(&key).query::<Option<Vec<u8>>>(&mut connection) else { continue };
            std::thread::sleep(Duration::from_millis(5));
            if let Some(record) = record {
                let _ = redis::cmd("SET").arg(&key).arg(record).arg("PX").arg(60_000).exec(&mut connection);
            }
        }
    }

    /// Waits until both processes give kept answers out (again).
    async fn wait_for_hits(&self) {
        let began = Instant::now();
        for process in &self.processes {
            loop {
                assert!(began.elapsed() < Duration::from_secs(3), "the near-cache is not used any more");
                sleep(Duration::from_millis(5)).await;
                let new = NewSession { user_id: Some("u".into()), ..NewSession::default() };
                let Ok(Some(session)) = process.sessions.issue(new).await else { continue };
                let ask = || process.answers.resolve(&session.id, Touch::Never, false, |_| ((), 500));
                let _ = ask().await;
                if matches!(ask().await, Ok(Some(Answer::Kept(..)))) {
                    break;
                }
            }
        }
    }
}

fn random(below: usize) -> usize {
    uuid::Uuid::new_v4().as_fields().0 as usize % below
}

/// Runs a history, with `fault` in the middle of it.
async fn history(express: bool, fault: impl AsyncFnOnce(&World)) {
    let world = World::new(express).await;
    world.wait_for_hits().await;
    let mut workers = JoinSet::new();
    let mut spawn = |work: Work| {
        let world = Arc::clone(&world);
        workers.spawn(async move {
            match work {
                Work::Resolve(process) => world.resolve(process).await,
                Work::Issue => world.issue().await,
                Work::Revoke => world.revoke().await,
                Work::Update => world.update().await,
            }
        });
    };
    for process in [0, 1] {
        (0..RESOLVERS).for_each(|_| spawn(Work::Resolve(process)));
    }
    for work in [Work::Issue, Work::Revoke, Work::Revoke, Work::Update] {
        spawn(work);
    }
    if express {
        let world = Arc::clone(&world);
        workers.spawn_blocking(move || world.save_as_express());
    }
    sleep(Duration::from_millis(700)).await;
    fault(&world).await;
    sleep(Duration::from_millis(700)).await;
    world.wait_for_hits().await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    let (checked, hits) = (world.checked.load(Ordering::Relaxed), world.hits.load(Ordering::Relaxed));
    let longest = *world.longest.lock().unwrap();
    eprintln!("{checked} answers checked, {hits} of them kept ones; the last {longest:?} after an end elsewhere");
    assert!(hits > 1_000, "this history hardly used the near-cache: {hits} hits");
}

enum Work {
    Resolve(usize),
    Issue,
    Revoke,
    Update,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_good_health() {
    history(false, async |_| sleep(Duration::from_millis(500)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_an_express_that_writes() {
    history(true, async |_| sleep(Duration::from_millis(500)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_freezes() {
    for express in [false, true] {
        history(express, async |world| {
            world.redis().signal("-STOP");
            sleep(Duration::from_secs(1)).await;
            world.redis().signal("-CONT");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_empty() {
    history(false, async |world| {
        world.redis().kill();
        world.all_ended();
        sleep(Duration::from_millis(300)).await;
        world.redis().restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_flushed() {
    history(false, async |world| {
        for command in ["FLUSHALL", "FLUSHDB", "FLUSHALL"] {
            redis::cmd(command).exec(&mut world.redis().connection()).unwrap();
            world.all_ended();
            sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut() {
    history(false, async |world| {
        for _ in 0..8 {
            let mut connection = world.redis().connection();
            let _ = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection);
            sleep(Duration::from_millis(150)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trackers_are_cut() {
    for express in [false, true] {
        history(express, async |world| {
            let mut killed = 0;
            for _ in 0..8 {
                let mut connection = world.redis().connection();
                let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
                for client in clients.lines().filter(|client| client.contains(" tot-mem=") && tracks(client)) {
                    let id = client.strip_prefix("id=").unwrap().split(' ').next().unwrap();
                    redis::cmd("CLIENT").arg(&["KILL", "ID", id]).exec(&mut connection).unwrap();
                    killed += 1;
                }
                sleep(Duration::from_millis(150)).await;
            }
            assert!(killed >= 8, "{killed} were cut");
        })
        .await;
    }
}

/// Whether a line of CLIENT LIST has the flag of tracking by prefixes.
fn tracks(client: &str) -> bool {
    client.split(' ').any(|field| field.strip_prefix("flags=").is_some_and(|flags| flags.contains('B')))
}
