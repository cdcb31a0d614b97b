//! Beside an Express that writes to the same Redis and knows nothing of the index.

use std::sync::Arc;

use sessiond::clock::Clock;
use sessiond::session::{Id, NewSession, Policy, Sessions, Touch};

use super::{Fixture, attributes, policy};

#[tokio::test]
async fn a_session_that_changed_hands_is_no_longer_its_former_users() {
    let fixture = Fixture::redis().await;
    let policy = Policy { user_pointer: Some("/passport/user".parse().unwrap()), ..policy() };
    let sessions = Sessions::new(Arc::clone(&fixture.stores[0]), policy, attributes(), Clock::system(), Arc::default());
    let new = NewSession { user_id: Some("ada".into()), ..NewSession::default() };
    let id: Id = sessions.issue(new).await.unwrap().unwrap().id;
    let record = r#"{"cookie":{"originalMaxAge":60000},"passport":{"user":"eve"}}"#;
    let mut redis = fixture.redis.as_ref().unwrap().connection();
    redis::cmd("SET").arg(format!("sess:{id}")).arg(record).arg("EX").arg(60).exec(&mut redis).unwrap();
    assert!(sessions.list("ada", None, 10).await.unwrap().sessions.is_empty());
    assert_eq!(sessions.revoke_user("ada", None).await.unwrap(), 0);
    assert_eq!(sessions.resolve(&id, Touch::Force).await.unwrap().unwrap().user_id.as_deref(), Some("eve"));
    // Since it was touched, it is in the index of the user whom it names.
    assert_eq!(sessions.list("eve", None, 10).await.unwrap().sessions.len(), 1);
    assert_eq!(sessions.revoke_user("eve", None).await.unwrap(), 1);
}
