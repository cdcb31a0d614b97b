//! Every store against the same suite: the contract of `sessiond::store`, and the rules of sessions under races.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod checkpoint;
mod conformance;
mod disk;
mod express;
mod index;
mod model;
mod near;
#[path = "../common/policy.rs"]
mod policy;
mod races;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod survey;
mod watch;

use std::sync::Arc;

use sessiond::clock::Clock;
use sessiond::session::{Policy, Sessions, Survey};
use sessiond::store::{self, Keyspace, Store, StoreUrl};

use near::Near;
use policy::{attributes, policy};
use redis_server::RedisServer;

/// How long a tombstone stays here, in ms.
const TOMBSTONE: i64 = 60_000;

/// Two openings of one database, as two processes would have it.
struct Fixture {
    stores: [Arc<dyn Store>; 2],
    url: String,
    keyspace: Keyspace,
    redis: Option<RedisServer>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self::open(url, Keyspace::default(), None, folder).await
    }

    async fn redis() -> Self {
        Self::on_redis(Keyspace::default()).await
    }

    async fn redis_beside_express() -> Self {
        Self::on_redis(Keyspace { tombstone: Some(TOMBSTONE), ..Keyspace::default() }).await
    }

    /// Behind a near-cache: one opening, for only in one process it is exact.
    async fn behind_a_cache(self) -> Self {
        let near: Arc<dyn Store> = Arc::new(Near::new(Arc::clone(&self.stores[0])).await);
        Self { stores: [Arc::clone(&near), near], ..self }
    }

    async fn on_redis(keyspace: Keyspace) -> Self {
        let server = RedisServer::start();
        // As the user of README.md, who may use these keys only: so its line is enough for every call of the suite.
        let is_default = keyspace.prefix == Keyspace::default().prefix;
        let url = if is_default { server.documented_user() } else { server.url() };
        Self::open(url, keyspace, Some(server), tempfile::tempdir().unwrap()).await
    }

    async fn open(url: String, keyspace: Keyspace, redis: Option<RedisServer>, folder: tempfile::TempDir) -> Self {
        // A new variant does not compile here: give it a fixture, and a line in each list below.
        match url.parse().unwrap() {
            StoreUrl::Sqlite(_) => assert!(redis.is_none()),
            StoreUrl::Redis(_) => assert!(redis.is_some()),
        }
        let open = async || store::open(&url.parse().unwrap(), &keyspace).await.unwrap();
        Self { stores: [open().await, open().await], url, keyspace, redis, _folder: folder }
    }

    fn store(&self) -> &dyn Store {
        self.stores[0].as_ref()
    }

    /// The sessions as two processes see them.
    fn sessions(&self) -> [Sessions; 2] {
        self.sessions_under(&policy())
    }

    fn sessions_under(&self, policy: &Policy) -> [Sessions; 2] {
        let sessions = |store: &Arc<dyn Store>| {
            Sessions::new(Arc::clone(store), policy.clone(), attributes(), Clock::system(), Arc::default())
        };
        [sessions(&self.stores[0]), sessions(&self.stores[1])]
    }

    /// The store as a whole.
    async fn survey(&self) -> Survey {
        self.survey_under(&policy()).await
    }

    async fn survey_under(&self, policy: &Policy) -> Survey {
        let store = store::survey(&self.url.parse().unwrap(), &self.keyspace).await.unwrap();
        Survey::new(store, policy.clone(), Clock::system())
    }
}

/// Runs each case on each store: a module a store, and the fixture that it makes.
macro_rules! run {
    ($($store:ident: $fixture:expr;)+ => $cases:tt) => {
        $(run!(@ $store $fixture => $cases);)+
    };
    (@ $store:ident $fixture:expr => [$($module:ident :: $case:ident),* $(,)?]) => {
        mod $store {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $module::$case(&$fixture).await;
            })*
        }
    };
}

run!(
    sqlite_watched: Fixture::sqlite().await;
    redis_watched: Fixture::redis().await;
    redis_beside_express_watched: Fixture::redis_beside_express().await;
    => [
        watch::a_change_is_told_before_it_is_answered,
        watch::what_another_process_changes_is_told_soon,
        watch::its_own_changes_are_no_reason_to_doubt,
    ]
);

run!(
    sqlite: Fixture::sqlite().await;
    redis: Fixture::redis().await;
    redis_beside_express: Fixture::redis_beside_express().await;
    sqlite_behind_a_cache: Fixture::sqlite().await.behind_a_cache().await;
    redis_behind_a_cache: Fixture::redis().await.behind_a_cache().await;
    redis_beside_express_behind_a_cache: Fixture::redis_beside_express().await.behind_a_cache().await;
    => [
    conformance::insert_never_overwrites,
    conformance::writes_apply_only_to_what_is_there,
    conformance::writes_apply_only_to_what_was_expected,
    conformance::an_expired_entry_is_missing_before_it_is_purged,
    conformance::unknown_ids_create_nothing,
    conformance::several_are_found_and_removed_at_once,
    conformance::users_are_listed_page_by_page,
    conformance::the_index_follows_every_write,
    conformance::records_are_bytes,
    conformance::every_key_expires,
    model::a_random_history_is_the_models,
    races::no_update_is_lost,
    races::an_update_never_revives,
    races::a_touch_never_revives,
    races::one_regenerate_wins,
    races::a_regenerate_carries_a_racing_update,
    races::revoking_a_user_reaches_every_acknowledged_session,
    races::revoking_a_user_reaches_a_session_that_is_being_regenerated,
    races::revoking_a_user_reaches_sessions_that_move_in_the_listing,
    races::a_limit_holds,
    races::a_limit_that_rejects_holds,
    races::a_login_that_loses_the_race_evicts_nobody,
    races::a_regenerate_beside_a_login_takes_one_place,
    races::an_aborted_login_takes_no_place_for_long,
    survey::a_walk_finds_every_live_entry_once,
    survey::everything_is_counted,
    survey::a_session_that_its_users_list_does_not_have_is_found,
    survey::what_others_do_meanwhile_is_no_drift,
    survey::a_session_is_inspected_as_it_is,
    ]
);
