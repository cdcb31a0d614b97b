//! Issue: a new session, as one of those that its user may have.

use serde_json::{Map, Value};

use super::record::Ours;
use super::{Call, Client, Data, Error, Id, MAX_RACES, Record, Session, Sessions, Standing, span};
use crate::clock::Ms;
use crate::store::{Entry, Insertion};

/// What an issuer asks for. Spans are in ms.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The user, when they are known already.
    pub user_id: Option<String>,
    /// The data to begin with.
    pub data: Map<String, Value>,
    /// In place of the policy's.
    pub idle_timeout_ms: Option<Ms>,
    /// In place of the policy's.
    pub lifetime_ms: Option<Ms>,
    /// Where it is issued to.
    pub client: Option<Client>,
}

/// A session that is not stored yet.
pub(super) struct Unstored {
    pub id: Id,
    pub record: Record,
    pub user_id: Option<String>,
    pub standing: Standing,
}

/// Withdraws a session when it is dropped, unless it has no id by then: after an error, or when the caller hung up.
struct Unclaimed<'a> {
    sessions: &'a Sessions,
    id: Option<&'a Id>,
    user_id: Option<&'a str>,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.sessions.withdraw_later(id.clone(), self.user_id.map(str::to_owned));
        }
    }
}

impl Sessions {
    /// Makes a new session. None when it has no user and no data and the policy does not store such (Express's
    /// `saveUninitialized`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the issuer asks for what the policy does not allow; [`Error::TooManySessions`] when the
    /// user has as many as they may have, and the policy is to refuse more.
    pub async fn issue(&self, new: NewSession) -> Result<Option<Session>, Error> {
        let policy = self.policy();
        let call = self.begin();
        let now = call.now;
        let idle_timeout_ms =
            span(new.idle_timeout_ms, policy.idle_timeout, policy.max_idle_timeout, "/idle_timeout_ms")?;
        let lifetime = span(new.lifetime_ms, policy.lifetime, policy.max_lifetime, "/lifetime_ms")?;
        if new.user_id.is_none() && new.data.is_empty() && !policy.save_uninitialized {
            return Ok(None);
        }
        let mut ours = Ours {
            created_at: now,
            touched_at: now,
            lifetime_ends_at: now + lifetime,
            idle_timeout_ms,
            user_id: None,
            client: new.client,
            pending: false,
        };
        let mut map = new.data;
        if let Some(user_id) = new.user_id {
            self.bind(&mut ours, &mut map, Some(user_id))?;
        }
        let data = Data::new(&map, "/data", policy.max_data_bytes)?;
        let persistent = !policy.browser_session;
        let session = match policy.max_sessions_per_user {
            None => self.insert(ours, data, persistent, call).await?,
            Some(_) => {
                let sessions = self.clone();
                // A caller that hangs up does not leave one session too many.
                self.finish(async move { sessions.insert_limited(ours, data, persistent, call).await }).await?
            }
        };
        self.metrics().issued.inc();
        Ok(Some(session))
    }

    /// Stores a new session, in one step.
    pub(super) async fn insert(&self, ours: Ours, data: Data, persistent: bool, call: Call) -> Result<Session, Error> {
        let new = self.unstored(Id::random(), ours, data, persistent, call.now);
        let (record, expires_at) = (new.record.encode(), new.standing.expires_at);
        for _ in 0..MAX_RACES {
            let id = Id::random();
            let entry = Entry { record: &record, user_id: new.user_id.as_deref(), expires_at };
            let mut unclaimed = Unclaimed { sessions: self, id: Some(&id), user_id: new.user_id.as_deref() };
            let inserted = self.store(call).insert(id.as_str(), entry, call.now).await?;
            unclaimed.id = None;
            drop(unclaimed);
            if inserted == Insertion::Done {
                return Ok(self.session(id, new.record, new.standing, true));
            }
        }
        Err(Error::Contention)
    }

    /// A new session as it is to be stored.
    pub(super) fn unstored(&self, id: Id, ours: Ours, data: Data, persistent: bool, now: Ms) -> Unstored {
        let standing = self.policy().touched(ours.idle_timeout_ms, Some(ours.lifetime_ends_at), now);
        let record = Record::new(&self.inner.attributes, persistent, ours, data, standing.expires_at);
        let user_id = self.user_of(&record);
        Unstored { id, record, user_id, standing }
    }
}
