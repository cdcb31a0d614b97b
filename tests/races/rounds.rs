//! Rounds of issue, login, regenerate, touch, update and revoke against "log out everywhere", for many users at once.
//!
//! What each round promises is in [`Round::check`]. A call that is answered with an error may have applied or not, so
//! nothing is promised of a session that nobody was told of; all that were acknowledged are checked.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;
use sessiond::clock::Clock;
use sessiond::session::{Change, Error, Id, Policy, Regenerate, Session, Sessions, Touch};
use sessiond::store::Store;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::redis_server::RedisServer;
use super::slow_link::{Profile, SlowLink};
use super::{is_live, is_unavailable, issue, keyspace, listed, open, policy, see, seed, sessions};

/// How many rounds there are if `SESSIOND_RACE_ROUNDS` does not say, and how many run at once.
const ROUNDS: u64 = 1_000;
const AT_ONCE: usize = 32;
/// How many connections each process has, so that one that is slow does not hold up everybody.
const OPENINGS: usize = 16;
/// Up to 1 ms each way, and 100 Mbit/s or so: a data centre.
const FAST: Profile = Profile { delay: ms(1), per_piece: Duration::from_micros(700), cut_one_in: 0 };
/// Up to 20 ms each way, and 8 KiB every 5 ms.
const SLOW: Profile = Profile { delay: ms(20), per_piece: ms(5), cut_one_in: 0 };
/// 8 KiB every 5 ms.
const NARROW: Profile = Profile { delay: ms(1), ..SLOW };
/// Only late.
const fn late(most: Duration) -> Profile {
    Profile { delay: most, per_piece: Duration::ZERO, cut_one_in: 0 }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Such a link, with a cut now and then.
const fn breaking(profile: Profile) -> Profile {
    Profile { cut_one_in: 300, ..profile }
}

/// Two processes on one store.
struct World {
    processes: [Vec<Sessions>; 2],
    /// Sees the store as it is: without delay, and without listing what it meets.
    observer: Sessions,
    store: Arc<dyn Store>,
    seed: u64,
    /// Within how long of each other the calls of a round begin: about as long as they take.
    spread: Duration,
    counts: Counts,
    violations: Mutex<Vec<String>>,
    /// All sessions there were. After the round nothing may revive them.
    ended: Mutex<Vec<Id>>,
    _links: Vec<SlowLink>,
    _redis: Option<RedisServer>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicUsize,
    /// Acknowledged, live, and not promised to be dead: they were issued during or after the revoke.
    spared: AtomicUsize,
    /// Calls that were answered with an error.
    unknown: AtomicUsize,
    survivors: AtomicUsize,
    unlisted: AtomicUsize,
    ghosts: AtomicUsize,
    left: AtomicUsize,
    twins: AtomicUsize,
    revived: AtomicUsize,
}

impl World {
    /// Both processes on a Redis, each over links of its own kind.
    async fn on_redis(express_writes: bool, spread: Duration, profiles: [Profile; 2]) -> Arc<Self> {
        let redis = RedisServer::start();
        let (seed, keyspace) = (seed(), keyspace(express_writes));
        let mut random = Rng::with_seed(seed);
        let (mut processes, mut links) = ([Vec::new(), Vec::new()], Vec::new());
        let (policy, clock) = (Policy { express_writes, ..large() }, Clock::system());
        for (process, profile) in profiles.into_iter().enumerate() {
            for _ in 0..OPENINGS {
                let link = SlowLink::to(redis.socket(), profile, random.u64(..));
                let store = open(&link.url(), &keyspace).await;
                processes[process].push(sessions(store, &policy, clock.clone()));
                links.push(link);
            }
        }
        let store = open(&redis.url(), &keyspace).await;
        Self::new(processes, store, seed, spread, links, Some(redis), tempfile::tempdir().unwrap())
    }

    async fn on_sqlite() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let open = async || open(&url, &keyspace(false)).await;
        let processes = [open().await, open().await].map(|store| vec![sessions(store, &large(), Clock::system())]);
        Self::new(processes, open().await, seed(), ms(3), Vec::new(), None, folder)
    }

    fn new(
        processes: [Vec<Sessions>; 2],
        store: Arc<dyn Store>,
        seed: u64,
        spread: Duration,
        links: Vec<SlowLink>,
        redis: Option<RedisServer>,
        folder: tempfile::TempDir,
    ) -> Arc<Self> {
        Arc::new(Self {
            processes,
            observer: sessions(Arc::clone(&store), &large(), Clock::system()),
            store,
            seed,
            spread,
            counts: Counts::default(),
            violations: Mutex::default(),
            ended: Mutex::default(),
            _links: links,
            _redis: redis,
            _folder: folder,
        })
    }

    fn violated(&self, count: &AtomicUsize, what: String) {
        count.fetch_add(1, Ordering::Relaxed);
        self.violations.lock().unwrap().push(what);
    }
}

fn large() -> Policy {
    Policy { max_data_bytes: 600_000, ..policy() }
}

/// Mostly small, a fifth of up to 60 KB, a few of 500 KB.
fn size(random: &mut Rng) -> usize {
    match random.u32(..200) {
        0 => 500_000,
        1..=40 => random.usize(20_000..60_000),
        41..=90 => random.usize(2_000..20_000),
        _ => random.usize(200..2_000),
    }
}

/// One user, and what their calls were answered.
struct Round {
    world: Arc<World>,
    number: u64,
    user: String,
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// Ids whose revoke was acknowledged.
    revoked: Mutex<Vec<Id>>,
    /// When the last revoke of all that was acknowledged was called.
    revoked_all: Mutex<Option<Instant>>,
    unknown: AtomicUsize,
}

#[derive(Clone)]
struct Acknowledged {
    id: Id,
    /// When the session was acknowledged first; a regenerate keeps that.
    since: Instant,
    how: &'static str,
}

impl Round {
    /// A process and one of its connections, by chance.
    fn any(&self, random: &mut Rng, process: usize) -> Sessions {
        random.choice(&self.world.processes[process]).unwrap().clone()
    }

    fn answered<T>(&self, answer: Result<T, Error>) -> Option<T> {
        answer
            .inspect_err(|error| {
                assert!(is_unavailable(error));
                self.unknown.fetch_add(1, Ordering::Relaxed);
            })
            .ok()
    }

    fn acknowledge(&self, session: Session, since: Option<Instant>, how: &'static str) -> Acknowledged {
        let acknowledged = Acknowledged { id: session.id, since: since.unwrap_or_else(Instant::now), how };
        self.acknowledged.lock().unwrap().push(acknowledged.clone());
        acknowledged
    }

    async fn issue(&self, sessions: &Sessions, bytes: usize) -> Option<Acknowledged> {
        let session = self.answered(issue(sessions, Some(&self.user), bytes).await)?;
        Some(self.acknowledge(session, None, "issue"))
    }

    async fn login(&self, sessions: &Sessions, visitor: &Id) -> Option<Acknowledged> {
        let wanted = Regenerate { user_id: Some(Some(self.user.clone())), ..Regenerate::default() };
        let session = self.answered(sessions.regenerate(visitor, wanted, |_| true).await)??;
        Some(self.acknowledge(session, None, "login"))
    }

    /// With other data of so many bytes, or with the same.
    async fn regenerate(&self, sessions: &Sessions, old: &Acknowledged, bytes: Option<usize>) -> Option<Acknowledged> {
        let data = bytes.map(|bytes| json!({"text": "x".repeat(bytes)}));
        let wanted = Regenerate { data, ..Regenerate::default() };
        let session = self.answered(sessions.regenerate(&old.id, wanted, |_| true).await)??;
        Some(self.acknowledge(session, Some(old.since), "regenerate"))
    }

    async fn revoke(&self, sessions: &Sessions, id: &Id) {
        if self.answered(sessions.revoke(id).await).is_some() {
            self.revoked.lock().unwrap().push(id.clone());
        }
    }

    /// Whatever was acknowledged before the call is dead when it is answered.
    async fn revoke_all(&self, sessions: &Sessions) {
        let called = Instant::now();
        if self.answered(sessions.revoke_user(&self.user, None).await).is_none() {
            return;
        }
        {
            let mut revoked_all = self.revoked_all.lock().unwrap();
            *revoked_all = (*revoked_all).max(Some(called));
        }
        self.check_survivors(called, "at the answer").await;
    }

    async fn check_survivors(&self, called: Instant, when: &str) {
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for one in acknowledged.iter().filter(|one| one.since < called) {
            if is_live(&self.world.observer, &one.id).await {
                let counts = &self.world.counts;
                self.world.violated(&counts.survivors, format!("{self} {one} lives {when} of revoke_user"));
            }
        }
    }

    async fn run(world: Arc<World>, number: u64) {
        let mut random = Rng::with_seed(world.seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let round = Self {
            number,
            user: format!("user{number}"),
            acknowledged: Mutex::default(),
            revoked: Mutex::default(),
            revoked_all: Mutex::default(),
            unknown: AtomicUsize::new(0),
            world,
        };
        let random = &mut random;
        // The first process is the one that issues; its link is the slower one.
        let from = round.any(random, 0);
        let Some(first) = round.issue(&from, size(random)).await else { return round.check(random).await };
        let (other, visitor) = match random.bool() {
            true => (round.issue(&round.any(random, 0), size(random)).await, None),
            false => (None, round.answered(issue(&round.any(random, 1), None, size(random)).await)),
        };
        round.race(random, &first, other.as_ref(), visitor.as_ref()).await;
        round.check(random).await;
    }

    async fn race(
        &self,
        random: &mut Rng,
        first: &Acknowledged,
        other: Option<&Acknowledged>,
        visitor: Option<&Session>,
    ) {
        let mut calls: Vec<std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>>> = Vec::new();
        let mut regenerates = 0;
        macro_rules! call {
            ($process:expr, $sessions:ident => $call:expr) => {{
                let $sessions = self.any(random, $process);
                let begins = self.world.spread.mul_f64(random.f64());
                calls.push(Box::pin(async move {
                    sleep(begins).await;
                    $call
                }));
            }};
        }
        let revoker = usize::from(random.u32(..4) > 0);
        call!(revoker, sessions => { self.revoke_all(&sessions).await; false });
        for _ in 0..random.usize(..=2) {
            let bytes = size(random);
            call!(0, sessions => { self.issue(&sessions, bytes).await; false });
        }
        if let Some(visitor) = visitor {
            call!(0, sessions => { self.login(&sessions, &visitor.id).await; false });
        }
        // Concurrent ones of the same session, by both processes; each winner goes on once more.
        for regenerate in 0..random.usize(..=3) {
            regenerates += 1;
            let bytes = random.bool().then(|| size(random));
            call!(regenerate % 2, sessions => match self.regenerate(&sessions, first, bytes).await {
                Some(new) => { self.regenerate(&sessions, &new, None).await; true }
                None => false,
            });
        }
        if let Some(other) = other {
            let bytes = size(random);
            match random.u32(..4) {
                0 => call!(1, sessions => { self.revoke(&sessions, &other.id).await; false }),
                1 => call!(0, sessions => { self.regenerate(&sessions, other, Some(bytes)).await; false }),
                2 => call!(0, sessions => {
                    let change = Change::Merge(json!({"more": 1}));
                    self.answered(sessions.update(&other.id, &change, |_| true).await);
                    false
                }),
                _ => call!(0, sessions => {
                    self.answered(sessions.resolve(&other.id, Touch::Force).await);
                    false
                }),
            }
        }
        if random.u32(..5) == 0 {
            call!(1 - revoker, sessions => { self.revoke_all(&sessions).await; false });
        }
        let winners = join_all(calls).await.into_iter().filter(|won| *won).count();
        if winners > 1 {
            let what = format!("{self} {winners} of {regenerates} regenerates of one session succeeded");
            self.world.violated(&self.world.counts.twins, what);
        }
    }

    /// Once every call has been answered:
    /// - what was acknowledged before a revoke of all was called is dead, also under the id that a regenerate gave it;
    /// - what was revoked is dead;
    /// - what was acknowledged and is live is listed, and nothing else is listed unless a call failed;
    /// - another revoke of all leaves nothing.
    async fn check(&self, random: &mut Rng) {
        let (world, counts) = (&self.world, &self.world.counts);
        let unknown = self.unknown.load(Ordering::Relaxed);
        if unknown > 0 {
            // What a call that failed has sent may still be on its way, and Redis answers in order.
            join_all(world.processes.iter().flatten().map(Sessions::ping)).await;
        }
        let called = *self.revoked_all.lock().unwrap();
        if let Some(called) = called {
            self.check_survivors(called, "some time after the answer").await;
        }
        let revoked = self.revoked.lock().unwrap().clone();
        for id in revoked {
            if is_live(&world.observer, &id).await {
                world.violated(&counts.revived, format!("{self} {id} lives after its revoke"));
            }
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let listed_ids: HashSet<Id> = see(|| listed(&world.observer, &self.user)).await.into_iter().collect();
        for one in &acknowledged {
            if is_live(&world.observer, &one.id).await {
                if called.is_none_or(|called| one.since >= called) {
                    counts.spared.fetch_add(1, Ordering::Relaxed);
                }
                if !listed_ids.contains(&one.id) {
                    world.violated(&counts.unlisted, format!("{self} {one} lives and is not listed"));
                }
            }
        }
        let known: HashSet<&Id> = acknowledged.iter().map(|one| &one.id).collect();
        for id in listed_ids.iter().filter(|id| unknown == 0 && !known.contains(id)) {
            world.violated(&counts.ghosts, format!("{self} {id} is listed and was never acknowledged"));
        }
        let mut tries = 0;
        while self.answered(self.any(random, 1).revoke_user(&self.user, None).await).is_none() {
            tries += 1;
            assert!(tries < 50, "{self} revoke_user fails each time");
        }
        for one in &acknowledged {
            if is_live(&world.observer, &one.id).await {
                world.violated(&counts.left, format!("{self} {one} lives after a second revoke_user"));
            }
        }
        world.ended.lock().unwrap().extend(acknowledged.iter().map(|one| one.id.clone()));
        counts.acknowledged.fetch_add(acknowledged.len(), Ordering::Relaxed);
        counts.unknown.fetch_add(self.unknown.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round {}:", self.number)
    }
}

impl std::fmt::Display for Acknowledged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (by {})", self.id, self.how)
    }
}

async fn race(name: &str, world: Arc<World>) {
    let began = Instant::now();
    let rounds = std::env::var("SESSIOND_RACE_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut running = JoinSet::new();
    for number in 0..rounds {
        while running.len() >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(Round::run(Arc::clone(&world), number));
    }
    running.join_all().await;
    let (ended, counts) = (world.ended.lock().unwrap().clone(), &world.counts);
    for ids in ended.chunks(200) {
        let ids: Vec<&str> = ids.iter().map(Id::as_str).collect();
        let found = see(|| async { Ok(world.store.find_many(&ids, Clock::system().now()).await?) }).await;
        for (id, found) in ids.iter().zip(found) {
            if found.is_some() && !world.violations.lock().unwrap().iter().any(|known| known.contains(id)) {
                world.violated(&counts.revived, format!("{id} was dead after its round, and is live at the end"));
            }
        }
    }
    let [acknowledged, spared, unknown, survivors, unlisted, ghosts, left, twins, revived] = [
        &counts.acknowledged,
        &counts.spared,
        &counts.unknown,
        &counts.survivors,
        &counts.unlisted,
        &counts.ghosts,
        &counts.left,
        &counts.twins,
        &counts.revived,
    ]
    .map(|count| count.load(Ordering::Relaxed));
    let seed = world.seed;
    eprintln!(
        "{name}: {rounds} rounds in {:.0?}, {acknowledged} sessions acknowledged ({spared} during or after the revoke), \
         {unknown} calls failed; {survivors} survivors, {unlisted} unlisted, {ghosts} ghosts, {left} left by a second \
         revoke, {twins} twins, {revived} revived; SESSIOND_RACE_SEED={seed}",
        began.elapsed()
    );
    let violations = world.violations.lock().unwrap();
    let first = &violations[..violations.len().min(5)];
    assert!(first.is_empty(), "seed {seed}: {} violations, such as {first:#?}", violations.len());
    // Otherwise nothing raced.
    assert!(acknowledged as u64 > rounds && spared as u64 > rounds / 10, "seed {seed}");
}

macro_rules! races {
    ($($name:ident: $world:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            race(stringify!($name), $world.await).await;
        })+
    };
}

races!(
    over_a_fast_link: World::on_redis(false, ms(5), [FAST, late(ms(1))]);
    over_a_slow_link: World::on_redis(false, ms(50), [SLOW, late(ms(10))]);
    over_a_slow_link_beside_express: World::on_redis(true, ms(50), [SLOW, late(ms(10))]);
    // The one writes slowly and hears at once; what the other hears is over when it acts on it.
    over_a_narrow_link: World::on_redis(false, ms(50), [NARROW, late(ms(20))]);
    over_a_link_that_breaks: World::on_redis(false, ms(50), [breaking(SLOW), breaking(late(ms(10)))]);
    over_a_link_that_breaks_beside_express: World::on_redis(true, ms(50), [breaking(SLOW), breaking(late(ms(10)))]);
    on_sqlite: World::on_sqlite();
);
