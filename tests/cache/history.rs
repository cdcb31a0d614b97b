//! Two processes on a real Redis that fails, and what each was answered: nobody is told that a session lives, or what it
//! was, longer than max-staleness after its end or its change was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use serde_json::{Map, Value, json};
use sessiond::clock::Clock;
use sessiond::session::{Answer, Answers, Change, Id, NewSession, Policy, Session, Sessions, Touch};
use sessiond::store::{self, Keyspace, Limits};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use super::policy::{attributes, policy};
use super::redis_server::RedisServer;
use super::slow_link::{Direction, Profile, SlowLink};

const MAX_STALENESS: Duration = Duration::from_millis(300);
/// How many sessions there are at a time, each under a task that issues, changes and ends it, and then issues the next.
const SLOTS: usize = 96;
/// How many tasks resolve on each side.
const RESOLVERS: usize = 4;
/// How many sessions each of them asks for at a time, and for how long it waits for an answer. So there is always
/// somebody who asks, also when Redis does not answer.
const BATCH: usize = 16;
const HURRY: Duration = Duration::from_millis(15);
/// For how long a session is still asked for after its end.
const AFTERLIFE: Duration = Duration::from_millis(700);
/// How soon answers are given out again after a fault.
const RECOVERY: Duration = Duration::from_secs(3);

/// Two processes, and what they have been answered.
struct World {
    redis: RwLock<RedisServer>,
    /// How the second one gets to it.
    link: SlowLink,
    sides: [Side; 2],
    /// Whether an Express writes, too.
    express: bool,
    slots: [RwLock<Option<Arc<Life>>>; SLOTS],
    lives: Mutex<Vec<Arc<Life>>>,
    /// From when to when everything was removed.
    swept: Mutex<Vec<(Instant, Instant)>>,
    /// Answers that were too old.
    outdated: Mutex<Vec<String>>,
    began: Instant,
    over: AtomicBool,
}

struct Side {
    sessions: Sessions,
    answers: Answers<u64>,
    hits: AtomicUsize,
    errors: AtomicUsize,
}

/// A session from its issue to some time after its end.
struct Life {
    id: Id,
    issued: Instant,
    /// What was written into it, where, and when that was acknowledged.
    updates: Mutex<Vec<(u64, usize, Instant)>>,
    /// Where it was revoked, and when that was acknowledged.
    ended: OnceLock<(usize, Instant)>,
    /// When, on each side, the last resolve began that was answered that it lives; in ns since the world began.
    lived: [AtomicU64; 2],
}

fn below(limit: usize) -> usize {
    getrandom::u32().unwrap() as usize % limit
}

async fn pause_below(ms: usize) {
    sleep(Duration::from_millis(below(ms) as u64)).await;
}

fn data(n: u64) -> Map<String, Value> {
    Map::from_iter([("n".into(), json!(n))])
}

/// What was last written into it.
fn number(session: &Session) -> u64 {
    session.data.to_map().unwrap()["n"].as_u64().unwrap()
}

/// How long after an acknowledgement on side `there` a resolve on side `here` may be answered as if there had been none.
fn grace(there: Option<usize>, here: usize) -> Duration {
    if there == Some(here) { Duration::ZERO } else { MAX_STALENESS }
}

impl World {
    async fn new(express: bool) -> Arc<Self> {
        let redis = RedisServer::start();
        let keyspace = Keyspace { tombstone: express.then_some(60_000), ..Keyspace::default() };
        let link = SlowLink::to(redis.socket(), Profile::default(), 0);
        // Touched now and then during a life.
        let policy = Policy { touch_after: 100, express_writes: express, ..policy() };
        let side = async |url: String| {
            let store = store::open(&url.parse().unwrap(), &keyspace).await.unwrap();
            let sessions = Sessions::new(store, policy.clone(), attributes(), Clock::system(), Arc::default());
            let limits = Limits { bytes: 16 << 20, max_staleness: MAX_STALENESS };
            let answers = Answers::new(sessions.clone(), Some(limits));
            Side { sessions, answers, hits: AtomicUsize::default(), errors: AtomicUsize::default() }
        };
        Arc::new(Self {
            sides: [side(redis.url()).await, side(link.url()).await],
            redis: RwLock::new(redis),
            link,
            express,
            slots: [const { RwLock::new(None) }; SLOTS],
            lives: Mutex::default(),
            swept: Mutex::default(),
            outdated: Mutex::default(),
            began: Instant::now(),
            over: AtomicBool::new(false),
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn any(&self) -> Option<Arc<Life>> {
        self.slots[below(SLOTS)].read().unwrap().clone()
    }

    fn hits(&self) -> [usize; 2] {
        [0, 1].map(|side| self.sides[side].hits.load(Ordering::Relaxed))
    }

    fn errors(&self) -> usize {
        self.sides.iter().map(|side| side.errors.load(Ordering::Relaxed)).sum()
    }

    /// Waits until both sides have given out what they keep, many times.
    async fn until_hits(&self, when: &str) {
        let (began, before) = (Instant::now(), self.hits());
        while (0..2).any(|side| self.hits()[side] < before[side] + 200) {
            assert!(began.elapsed() < RECOVERY, "{when}: {before:?} hits, and then {:?}", self.hits());
            sleep(Duration::from_millis(5)).await;
        }
        eprintln!("{when}: hits within {:?}", began.elapsed());
    }

    /// Everything is removed by `work`; what was issued before is to be found nowhere afterwards.
    async fn sweep(&self, work: impl AsyncFnOnce()) {
        let began = Instant::now();
        work().await;
        self.swept.lock().unwrap().push((began, Instant::now()));
    }

    /// One session after another, each changed and ended on any side.
    async fn live(self: Arc<Self>, slot: usize) {
        while !self.is_over() {
            let new = NewSession { data: data(0), ..NewSession::default() };
            let Ok(session) = self.sides[below(2)].sessions.issue(new).await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let life = Arc::new(Life {
                id: session.unwrap().id,
                issued: Instant::now(),
                updates: Mutex::default(),
                ended: OnceLock::new(),
                lived: Default::default(),
            });
            self.lives.lock().unwrap().push(Arc::clone(&life));
            *self.slots[slot].write().unwrap() = Some(Arc::clone(&life));
            for n in 1..below(5) as u64 {
                pause_below(200).await;
                self.update(&life, n).await;
            }
            pause_below(200).await;
            // Also in the middle of a change.
            tokio::join!(self.revoke(&life), self.update(&life, 9));
            sleep(AFTERLIFE).await;
        }
    }

    async fn update(&self, life: &Life, n: u64) {
        let side = below(2);
        let change = Change::Replace(data(n));
        if let Ok(Some(_)) = self.sides[side].sessions.update(&life.id, &change, |_| true).await {
            life.updates.lock().unwrap().push((n, side, Instant::now()));
        }
    }

    async fn revoke(&self, life: &Life) {
        let side = below(2);
        // One that fails may have ended it or not.
        if self.sides[side].sessions.revoke(&life.id).await.is_ok() {
            life.ended.set((side, Instant::now())).unwrap();
        }
    }

    async fn resolve_any(self: Arc<Self>, here: usize) {
        while !self.is_over() {
            // A little rest, or there would be no time for anybody else.
            sleep(Duration::from_millis(2)).await;
            let batch = (0..BATCH).filter_map(|_| self.any()).map(|life| self.resolve(life, here));
            futures_util::future::join_all(batch).await;
        }
    }

    async fn resolve(&self, life: Arc<Life>, here: usize) {
        let (side, began) = (&self.sides[here], Instant::now());
        let make = |session: &Session| (number(session), 100);
        let answer = timeout(HURRY, side.answers.resolve(&life.id, Touch::WhenDue, false, make)).await;
        let n = match answer {
            Ok(Ok(Some(Answer::Kept(n, _)))) => {
                side.hits.fetch_add(1, Ordering::Relaxed);
                n
            }
            Ok(Ok(Some(Answer::Asked(n)))) => n,
            Ok(Ok(Some(Answer::Extended(session)))) => number(&session),
            Ok(Ok(None)) => return,
            Ok(Err(_)) | Err(_) => {
                side.errors.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        let at = u64::try_from((began - self.began).as_nanos()).unwrap();
        life.lived[here].fetch_max(at, Ordering::Relaxed);
        self.check_data(&life, here, began, n);
    }

    /// An Express puts back what it read a while ago, so beside one the data say nothing.
    fn check_data(&self, life: &Life, here: usize, began: Instant, n: u64) {
        let updates = life.updates.lock().unwrap();
        let known = updates.iter().filter(|(_, there, at)| began > *at + grace(Some(*there), here));
        if let Some((newest, there, at)) = known.max().filter(|(newest, ..)| !self.express && *newest > n) {
            let late = began - *at;
            self.outdated.lock().unwrap().push(format!("{n} on {here}, {late:?} after {newest} on {there}"));
        }
    }

    /// An Express: reads at the beginning of a request, and saves at its end.
    async fn save_blindly(self: Arc<Self>) {
        let client = redis::Client::open(self.redis.read().unwrap().url()).unwrap();
        while !self.is_over() {
            let Ok(mut redis) = client.get_multiplexed_async_connection().await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            while !self.is_over() {
                let Some(life) = self.any() else { break };
                let key = format!("sess:{}", life.id);
                let Ok(record) = redis.get::<_, Option<String>>(&key).await else { break };
                pause_below(60).await;
                if let Some(record) = record
                    && redis.pset_ex::<_, _, ()>(&key, record, 86_400_000).await.is_err()
                {
                    break;
                }
            }
        }
    }

    /// How long after its end was acknowledged a session was last said to live by the other side, at the most.
    fn check_ends(&self) -> Duration {
        let (mut lag, mut ended) = (Duration::ZERO, 0);
        let swept = self.swept.lock().unwrap();
        for life in self.lives.lock().unwrap().iter() {
            let revoked = life.ended.get().map(|(there, at)| (Some(*there), *at));
            let gone = swept.iter().filter(|(began, _)| life.issued < *began).map(|(_, at)| (None, *at));
            for (there, at) in revoked.into_iter().chain(gone) {
                ended += 1;
                for here in 0..2 {
                    let lived = self.began + Duration::from_nanos(life.lived[here].load(Ordering::Relaxed));
                    let late = lived.saturating_duration_since(at);
                    if late > grace(there, here) {
                        self.outdated
                            .lock()
                            .unwrap()
                            .push(format!("live on {here}, {late:?} after its end on {there:?}"));
                    }
                    if there != Some(here) {
                        lag = lag.max(late);
                    }
                }
            }
        }
        assert!(ended > SLOTS / 4, "only {ended} sessions ended");
        lag
    }
}

/// Runs `fault` in a world that is busy, and looks whether it has kept its promise.
async fn history(express: bool, fault: impl AsyncFnOnce(&World)) {
    let world = World::new(express).await;
    let mut busy = JoinSet::new();
    for slot in 0..SLOTS {
        busy.spawn(Arc::clone(&world).live(slot));
    }
    for worker in 0..2 * RESOLVERS {
        busy.spawn(Arc::clone(&world).resolve_any(worker % 2));
    }
    for _ in 0..if express { 16 } else { 0 } {
        busy.spawn(Arc::clone(&world).save_blindly());
    }
    world.until_hits("before").await;
    let before = world.hits();
    fault(&world).await;
    assert!((0..2).all(|side| world.hits()[side] > before[side]), "nothing was given out, so nothing was tested");
    world.until_hits("after").await;
    sleep(2 * MAX_STALENESS).await;
    world.over.store(true, Ordering::Relaxed);
    busy.join_all().await;
    let lag = world.check_ends();
    let (lives, hits, errors) = (world.lives.lock().unwrap().len(), world.hits(), world.errors());
    eprintln!("{lives} sessions, {hits:?} hits, {errors} errors; the other side followed within {lag:?}");
    let outdated = world.outdated.lock().unwrap();
    assert!(outdated.is_empty(), "{} answers, such as {:#?}", outdated.len(), &outdated[..outdated.len().min(5)]);
}

async fn healthy(_: &World) {
    sleep(Duration::from_secs(2)).await;
}

async fn stopped(world: &World) {
    for _ in 0..2 {
        sleep(Duration::from_millis(500)).await;
        let before = world.errors();
        world.redis.read().unwrap().signal("-STOP");
        sleep(Duration::from_secs(1)).await;
        world.redis.read().unwrap().signal("-CONT");
        assert!(world.errors() > before, "nobody noticed");
        world.until_hits("after it was stopped").await;
    }
}

/// For one side only: the other goes on, and is acknowledged what this one is not told of.
async fn held_up(world: &World) {
    for ms in [200, 400, 1000, 250, 450] {
        let before = world.sides[1].errors.load(Ordering::Relaxed);
        world.link.hold(Direction::FromRedis);
        sleep(Duration::from_millis(ms)).await;
        world.link.release(Direction::FromRedis);
        assert!(ms < 1000 || world.sides[1].errors.load(Ordering::Relaxed) > before, "nobody noticed");
        world.until_hits("after it was held up").await;
    }
}

async fn emptied(world: &World) {
    for _ in 0..2 {
        sleep(Duration::from_millis(300)).await;
        let before = world.errors();
        world.sweep(async || block_in_place(|| world.redis.write().unwrap().kill())).await;
        sleep(Duration::from_millis(200)).await;
        block_in_place(|| world.redis.write().unwrap().restart());
        world.until_hits("after it was killed").await;
        assert!(world.errors() > before, "nobody noticed");
    }
}

async fn flushed(world: &World) {
    let mut redis = world.redis.read().unwrap().connection();
    for _ in 0..8 {
        sleep(Duration::from_millis(250)).await;
        world.sweep(async || redis::cmd("FLUSHALL").exec(&mut redis).unwrap()).await;
    }
}

/// Both connections of each side.
async fn cut_off(world: &World) {
    let (mut redis, mut killed) = (world.redis.read().unwrap().connection(), 0);
    for _ in 0..12 {
        pause_below(500).await;
        let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        killed += redis::cmd("CLIENT").arg(&kill).query::<usize>(&mut redis).unwrap();
    }
    assert!(killed > 20, "{killed}");
}

/// Only those over which Redis pushes.
async fn unwatched(world: &World) {
    let (mut redis, mut killed) = (world.redis.read().unwrap().connection(), 0);
    for _ in 0..12 {
        pause_below(500).await;
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut redis).unwrap();
        for client in clients.lines() {
            let field = |name: &str| client.split(' ').find_map(|field| field.strip_prefix(name)).unwrap();
            if field("flags=").contains('t') {
                let kill = ["KILL", "ID", field("id=")];
                killed += redis::cmd("CLIENT").arg(&kill).query::<usize>(&mut redis).unwrap();
            }
        }
    }
    assert!(killed > 8, "{killed}");
}

/// Alone and beside an Express; not where Redis forgets what was revoked while an Express remembers it.
macro_rules! histories {
    ($($fault:ident),*; beside_express: $($beside:ident),*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $fault() {
            super::history(false, super::$fault).await;
        })*
        mod beside_express {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $beside() {
                super::super::history(true, super::super::$beside).await;
            })*
        }
    };
}

mod with_a_redis_that_is {
    histories!(
        healthy, stopped, held_up, emptied, flushed, cut_off, unwatched;
        beside_express: healthy, stopped, held_up, cut_off, unwatched
    );
}
