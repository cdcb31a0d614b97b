//! Beside an Express that writes to the same Redis: blindly, and knowing nothing of the index.

use redis::Commands;
use sessiond::id::Id;
use sessiond::session::{Adopted, Change, NewSession, Policy, Precondition, Regenerate, Sessions, Touch};

use super::{Fixture, TOMBSTONE, policy};

/// One that names its users where Passport does, beside this service or, with `writes` off, before it.
struct Express {
    fixture: Fixture,
    sessions: Sessions,
    redis: redis::Connection,
}

impl Express {
    async fn beside(writes: bool) -> Self {
        let fixture = if writes { Fixture::redis_beside_express().await } else { Fixture::redis().await };
        let policy =
            Policy { user_pointer: Some("/passport/user".parse().unwrap()), express_writes: writes, ..policy() };
        let [sessions, _] = fixture.sessions_under(&policy);
        let redis = fixture.redis.as_ref().unwrap().connection();
        Self { fixture, sessions, redis }
    }

    /// As connect-redis saves a session.
    fn save(&mut self, id: &Id, record: &str, seconds: u64) {
        let _: () = self.redis.set_ex(format!("sess:{id}"), record, seconds).unwrap();
    }

    fn stored(&mut self, id: &Id) -> Option<String> {
        self.redis.get(format!("sess:{id}")).unwrap()
    }

    async fn issue(&self, user: &str) -> Id {
        let new = NewSession { user_id: Some(user.into()), ..NewSession::default() };
        self.sessions.issue(new).await.unwrap().unwrap().id
    }

    async fn is_live(&self, id: &Id) -> bool {
        self.sessions.resolve(id, Touch::Never).await.unwrap().is_some()
    }

    async fn listed(&self, user: &str) -> Vec<Id> {
        self.sessions.list(user, None, 100).await.unwrap().sessions.into_iter().map(|session| session.id).collect()
    }
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

const ADAS: &str = r#"{"cookie":{"originalMaxAge":60000},"passport":{"user":"ada"}}"#;
const EVES: &str = r#"{"cookie":{"originalMaxAge":60000},"passport":{"user":"eve"}}"#;

#[tokio::test]
async fn a_session_that_changed_hands_is_no_longer_its_former_users() {
    let mut express = Express::beside(false).await;
    let id = express.issue("ada").await;
    express.save(&id, EVES, 60);
    assert!(express.listed("ada").await.is_empty());
    assert_eq!(express.sessions.revoke_user("ada", None).await.unwrap(), 0);
    assert_eq!(express.sessions.resolve(&id, Touch::Force).await.unwrap().unwrap().user_id.as_deref(), Some("eve"));
    // Since it was touched, it is in the index of the user whom it names.
    assert_eq!(express.listed("eve").await.len(), 1);
    assert_eq!(express.sessions.revoke_user("eve", None).await.unwrap(), 1);
}

#[tokio::test]
async fn what_express_saves_after_its_end_stays_ended() {
    let mut express = Express::beside(true).await;
    // Ended by itself, with all of its user's, by a regenerate, and by the limit.
    let [alone, everywhere, renamed] =
        [express.issue("ada").await, express.issue("eve").await, express.issue("bob").await];
    let records = [&alone, &everywhere, &renamed].map(|id| (id.clone(), express.stored(id).unwrap()));
    assert!(express.sessions.revoke(&alone, &Precondition::Any).await.unwrap());
    assert_eq!(express.sessions.revoke_user("eve", None).await.unwrap(), 1);
    let new = express.sessions.regenerate(&renamed, Regenerate::default(), Precondition::Any).await.unwrap().unwrap();
    for (id, record) in &records {
        express.save(id, record, 60);
        assert!(!express.is_live(id).await);
        assert_eq!(express.stored(id), None, "it is taken away again, so Express ends it too");
        // No other verb takes it for live either.
        express.save(id, record, 60);
        let change = Change::Replace(serde_json::Map::new());
        assert!(express.sessions.update(id, &change, &Precondition::Any).await.unwrap().is_none());
        express.save(id, record, 60);
        assert!(express.sessions.regenerate(id, Regenerate::default(), Precondition::Any).await.unwrap().is_none());
        express.save(id, record, 60);
        assert!(express.sessions.resolve_many(vec![id.clone()]).await.unwrap()[0].as_ref().unwrap().is_none());
        express.save(id, record, 60);
        assert!(!express.sessions.revoke(id, &Precondition::Any).await.unwrap(), "it was ended before");
        assert_eq!(express.stored(id), None);
        let stays: i64 = express.redis.pttl(format!("{{sess:{id}}}:revoked")).unwrap();
        assert!((1..=TOMBSTONE).contains(&stays), "{stays}");
    }
    assert!(express.is_live(&new.id).await);
    for user in ["ada", "eve"] {
        assert!(express.listed(user).await.is_empty());
    }
}

/// Express has read it, logs out by itself, and a slow request is still about to save: the service is told to revoke what
/// is not there.
#[tokio::test]
async fn a_revoke_of_nothing_counts_for_what_comes() {
    let mut express = Express::beside(true).await;
    assert!(!express.sessions.revoke(&id("slow"), &Precondition::Any).await.unwrap());
    express.save(&id("slow"), ADAS, 60);
    assert!(!express.is_live(&id("slow")).await);
}

/// What was read before the end is written after it, to a record that is the same to the byte.
#[tokio::test]
async fn no_write_applies_to_a_revived_record() {
    let mut express = Express::beside(true).await;
    let id = express.issue("ada").await;
    let record = express.stored(&id).unwrap();
    express.sessions.revoke(&id, &Precondition::Any).await.unwrap();
    express.save(&id, &record, 60);
    let (store, bytes) = (express.fixture.store(), record.as_bytes());
    let entry = sessiond::store::Entry { record: b"{}", user_id: Some("ada"), expires_at: i64::from(u32::MAX) * 1000 };
    use sessiond::store::Outcome::Missing;
    assert_eq!(store.replace(id.as_str(), bytes, entry, 0).await.unwrap(), Missing);
    assert_eq!(store.touch(id.as_str(), bytes, entry, 0).await.unwrap(), Missing);
    assert_eq!(store.remove_if(id.as_str(), bytes, Some("ada"), 0).await.unwrap(), Missing);
    assert_eq!(store.find_many(&[id.as_str()], 0).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_full_redis_revokes_for_good_too() {
    let mut express = Express::beside(true).await;
    let ids = [express.issue("ada").await, express.issue("ada").await, express.issue("ada").await];
    let set = |redis: &mut redis::Connection, bytes: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(redis).unwrap();
    };
    set(&mut express.redis, "1");
    assert!(express.sessions.issue(NewSession { user_id: Some("ada".into()), ..NewSession::default() }).await.is_err());
    assert!(express.sessions.revoke(&ids[0], &Precondition::Any).await.unwrap());
    assert_eq!(express.sessions.revoke_user("ada", None).await.unwrap(), 2);
    set(&mut express.redis, "0");
    for id in &ids {
        express.save(id, ADAS, 60);
        assert!(!express.is_live(id).await);
    }
}

#[tokio::test]
async fn a_session_that_only_express_extends_stays_listed() {
    let mut express = Express::beside(true).await;
    let id = express.issue("ada").await;
    // As after days: the index knows of an expiry that is long over, and Express has touched since.
    let _: () = express.redis.zadd("sess-user:ada", id.as_str(), 1000).unwrap();
    let other = express.issue("ada").await;
    assert_eq!(express.listed("ada").await, [other.clone(), id.clone()]);
    let survey = express.fixture.survey().await;
    assert_eq!(survey.lists(true, |_| ()).await.unwrap().pruned, 0);
    assert_eq!(express.sessions.revoke_user("ada", None).await.unwrap(), 2);
    // One whose key is gone leaves the list.
    let gone = express.issue("ada").await;
    let _: () = express.redis.del(format!("sess:{gone}")).unwrap();
    assert_eq!(survey.lists(true, |_| ()).await.unwrap().pruned, 1);
}

#[tokio::test]
async fn a_session_that_express_made_is_listed_when_it_is_first_met() {
    for writes in [false, true] {
        let mut express = Express::beside(writes).await;
        for one in ["a", "b", "c"] {
            express.save(&id(one), ADAS, 60);
        }
        assert!(express.listed("ada").await.is_empty());
        // Nothing is due to be touched, and Express's records stay as they are.
        express.sessions.resolve(&id("a"), Touch::WhenDue).await.unwrap().unwrap();
        assert_eq!(express.sessions.resolve_many(vec![id("b"), id("c")]).await.unwrap().len(), 2);
        assert_eq!(express.listed("ada").await.len(), 3);
        assert_eq!(express.stored(&id("a")).as_deref(), Some(ADAS));
        // Under the same id for somebody else.
        express.save(&id("a"), EVES, 60);
        express.sessions.resolve(&id("a"), Touch::WhenDue).await.unwrap().unwrap();
        assert_eq!((express.listed("ada").await.len(), express.listed("eve").await.len()), (2, 1));
    }
}

#[tokio::test]
async fn a_fleets_sessions_are_adopted() {
    let mut express = Express::beside(true).await;
    for n in 0..2500 {
        let record = format!(r#"{{"cookie":{{"originalMaxAge":60000}},"passport":{{"user":"u{}"}}}}"#, n % 50);
        express.save(&id(&format!("s{n}")), &record, 60);
    }
    express.save(&id("nobody"), r#"{"cookie":{}}"#, 60);
    express.save(&id("other"), "\u{83}msgpack", 60);
    express.issue("u1").await;
    let survey = express.fixture.survey_under(express.sessions.policy()).await;
    let run = async |dry_run: bool| {
        let (mut adopted, mut walk) = (Adopted::default(), survey.walk(None));
        while let Some(step) = walk.next().await.unwrap() {
            adopted.take(step, &survey, &express.sessions, dry_run).await.unwrap();
        }
        assert_eq!((adopted.without_user, adopted.ended, adopted.unreadable), (1, 0, 1));
        assert_eq!(adopted.examples[0].id, "other");
        (adopted.adopted, adopted.listed)
    };
    assert_eq!(run(true).await, (2500, 1));
    assert_eq!(run(false).await, (2500, 1));
    assert_eq!(run(false).await, (0, 2501), "again does no harm");
    assert_eq!(express.listed("u1").await.len(), 51);
    assert_eq!(express.sessions.revoke_user("u1", None).await.unwrap(), 51);
}
