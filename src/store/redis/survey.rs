//! A Redis seen as a whole, by `SCAN`: in steps, so that Redis serves others between them.

use async_trait::async_trait;
use redis::InfoDict;
use tokio::time::Instant;

use super::Redis;
use super::index::ms;
use super::link::keeps_sessions;
use crate::clock::Ms;
use crate::store::survey::{Batch, Check, Cursor, IndexBatch, Survey, deadline};
use crate::store::{Error, Result};

/// How many keys one `SCAN` looks at.
const KEYS: u64 = 1000;
/// How many keys are read in one round trip: records may be large.
const READS: usize = 100;
/// How far apart the clocks may be, in ms.
const SKEW: Ms = 1000;
/// How much later than its key an index entry may expire, in ms: the key counts from when Redis received it.
const SLACK: Ms = 2000;

#[async_trait]
impl Survey for Redis {
    async fn checks(&self, now: Ms) -> Result<Vec<Check>> {
        let asked = Instant::now();
        let time: Result<((Ms, Ms),)> = self.run(redis::pipe().cmd("TIME"), deadline()).await;
        let took = Ms::try_from(asked.elapsed().as_millis()).unwrap_or(Ms::MAX);
        let mut checks = match self.run::<(InfoDict,)>(redis::pipe().cmd("INFO"), deadline()).await {
            Ok((info,)) => told(&info),
            // Redis answers, and is not to say.
            Err(error) => vec![unasked("info", error)?],
        };
        checks.push(match time {
            Ok(((seconds, micros),)) => clock(seconds * 1000 + micros / 1000, now, took),
            Err(error) => unasked("clock", error)?,
        });
        Ok(checks)
    }

    async fn size(&self) -> Result<u64> {
        let (keys,) = self.run(redis::pipe().cmd("DBSIZE"), deadline()).await?;
        Ok(keys)
    }

    async fn walk(&self, from: Option<&Cursor>, now: Ms) -> Result<Batch> {
        let (keys, next_cursor) = self.scan(&self.key_prefix, "string", from).await?;
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READS) {
            let ids = keys.iter().map(|key| &key[self.key_prefix.len()..]);
            let found = self.read_all(ids.clone(), now, deadline()).await?;
            entries.extend(ids.zip(found).filter_map(|(id, found)| Some((id.to_owned(), found?))));
        }
        Ok(Batch { entries, looked_at: KEYS, next: next_cursor })
    }

    async fn unlisted(&self, entries: &[(&str, &str)], _now: Ms) -> Result<Vec<bool>> {
        let mut unlisted = Vec::with_capacity(entries.len());
        for entries in entries.chunks(READS) {
            let mut pipeline = redis::pipe();
            for (user_id, id) in entries {
                // In this order: who ends a session takes away its key first.
                pipeline.cmd("ZSCORE").arg(self.index(user_id)).arg(id).cmd("EXISTS").arg(self.key(id));
            }
            let answers: Vec<(Option<f64>, bool)> = self.run(&pipeline, deadline()).await?;
            // A pending entry is about to be listed.
            unlisted.extend(answers.into_iter().map(|(score, exists)| score.is_none() && exists));
        }
        Ok(unlisted)
    }

    async fn walk_index(&self, from: Option<&Cursor>, prune: bool, now: Ms) -> Result<IndexBatch> {
        let (indexes, next_cursor) = self.scan(&self.index_prefix, "zset", from).await?;
        let mut batch = IndexBatch { entries: 0, dangling: 0, pruned: 0, looked_at: KEYS, next: next_cursor };
        for indexes in indexes.chunks(READS) {
            let mut pipeline = redis::pipe();
            for index in indexes {
                pipeline.cmd("ZRANGE").arg(index).arg(0).arg(-1).arg("WITHSCORES");
            }
            let lists: Vec<Vec<(String, f64)>> = self.run(&pipeline, deadline()).await?;
            for (index, list) in indexes.iter().zip(lists) {
                self.look_at(index, &list, prune, now, &mut batch).await?;
            }
        }
        Ok(batch)
    }
}

impl Redis {
    /// The keys of one type that begin with `prefix`, among the next [`KEYS`]. One that is not UTF-8 names no session.
    async fn scan(&self, prefix: &str, kind: &str, from: Option<&Cursor>) -> Result<(Vec<String>, Option<Cursor>)> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SCAN").arg(from.map_or("0", |cursor| &cursor.0));
        pipeline.arg("MATCH").arg(literal(prefix) + "*").arg("COUNT").arg(KEYS).arg("TYPE").arg(kind);
        let ((cursor, keys),): ((String, Vec<Vec<u8>>),) = self.run(&pipeline, deadline()).await?;
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect();
        Ok((keys, (cursor != "0").then_some(Cursor(cursor))))
    }

    /// One user's list.
    async fn look_at(
        &self,
        index: &str,
        list: &[(String, f64)],
        prune: bool,
        now: Ms,
        batch: &mut IndexBatch,
    ) -> Result<()> {
        batch.entries += list.len() as u64;
        // Not those whose insert is under way.
        let over: Vec<&(String, f64)> = list.iter().filter(|(_, score)| ms(*score) >= -now).collect();
        let mut gone = Vec::new();
        for entries in over.chunks(READS * 10) {
            let mut pipeline = redis::pipe();
            for (id, _) in entries {
                pipeline.cmd("EXISTS").arg(self.key(id)).cmd("ZSCORE").arg(index).arg(id);
            }
            let answers: Vec<(bool, Option<f64>)> = self.run(&pipeline, deadline()).await?;
            gone.extend(entries.iter().zip(answers).filter(|(_, (exists, score))| !exists && score.is_some()));
        }
        batch.dangling += gone.iter().filter(|((_, score), _)| ms(*score) > now + SLACK).count() as u64;
        if prune {
            let gone: Vec<_> = gone.into_iter().map(|((id, score), _)| ((ms(*score), id.clone()), None)).collect();
            batch.pruned += self.correct(index, &gone, deadline()).await? as u64;
        }
        Ok(())
    }
}

/// What `SCAN MATCH` takes for these very characters.
fn literal(text: &str) -> String {
    let escaped = |char| if "*?[]\\".contains(char) { vec!['\\', char] } else { vec![char] };
    text.chars().flat_map(escaped).collect()
}

/// A check that this Redis user may not make; any other error is one.
fn unasked(name: &'static str, error: Error) -> Result<Check> {
    match error {
        Error::Unavailable(why) if why.contains("NOPERM") => {
            Ok(Check::new(name, false, why, "let this Redis user run the command, and ask again"))
        }
        error => Err(error),
    }
}

/// What Redis tells of itself.
fn told(info: &InfoDict) -> Vec<Check> {
    let tells = |key: &str| info.get::<String>(key).unwrap_or_default();
    let version = tells("redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let name = match tells("server_name").as_str() {
        "valkey" => format!("Valkey {} (Redis {version})", tells("valkey_version")),
        _ => format!("Redis {version}"),
    };
    let (aof, failed) = (tells("aof_enabled") == "1", |key: &str| tells(key) == "err");
    let snapshot = if failed("rdb_last_bgsave_status") { "the last snapshot failed" } else { "no snapshot failed" };
    let (persistence, persists) = match (aof, failed("aof_last_write_status")) {
        (true, false) => ("AOF is on and its last write was good", true),
        (true, true) => ("AOF is on and its last write failed", false),
        (false, _) => ("AOF is off", false),
    };
    let policy = tells("maxmemory_policy");
    let bytes = |key: &str| info.get::<u64>(key).unwrap_or_default();
    let (used, maxmemory) = (bytes("used_memory"), bytes("maxmemory"));
    let evicted = info.get::<u64>("evicted_keys").unwrap_or_default();
    vec![
        Check::new("version", major.is_none_or(|major| major >= 7), name, "upgrade to Redis 7.0 or later, or Valkey"),
        Check::new(
            "persistence",
            persists,
            persistence,
            if aof {
                "look into Redis's log and the disk it writes to"
            } else {
                "set `appendonly yes`: without it a restart loses sessions, and may bring back revoked ones"
            },
        ),
        Check::new(
            "snapshots",
            !failed("rdb_last_bgsave_status"),
            snapshot,
            "look into Redis's log and the disk it writes to: while it fails, Redis may refuse writes",
        ),
        Check::new(
            "maxmemory_policy",
            keeps_sessions(&policy),
            policy,
            "set `maxmemory-policy noeviction`: now a full Redis drops live sessions, and with allkeys-* lists of users too",
        ),
        Check::new(
            "memory",
            maxmemory == 0 || used / 9 * 10 < maxmemory,
            match maxmemory {
                0 => format!("{used} bytes used, of as many as there are"),
                _ => format!("{used} bytes used of {maxmemory}"),
            },
            "a full Redis refuses to issue and to update: raise its maxmemory, or let sessions expire sooner",
        ),
        Check::new(
            "evicted_keys",
            evicted == 0,
            format!("{evicted} evicted since Redis started"),
            "live sessions may be among them: give Redis more memory or set `maxmemory-policy noeviction`; \
             `CONFIG RESETSTAT` counts anew",
        ),
    ]
}

/// `theirs` was read at some time within `took` ms from `now`.
fn clock(theirs: Ms, now: Ms, took: Ms) -> Check {
    let skew = theirs - theirs.clamp(now, now.saturating_add(took));
    let found = match skew {
        0 => "Redis and this machine agree".to_owned(),
        ahead @ 1.. => format!("Redis is {ahead} ms ahead of this machine"),
        behind => format!("Redis is {} ms behind this machine", -behind),
    };
    let advice = "have both machines keep time (NTP): sessions end early or late by as much";
    Check::new("clock", skew.abs() <= SKEW, found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_itself_only() {
        assert_eq!(literal("sess:"), "sess:");
        assert_eq!(literal(r"s[e]*?\:"), r"s\[e\]\*\?\\:");
    }

    #[test]
    fn clocks_are_compared_as_exactly_as_the_answer_came() {
        for (theirs, good) in [(1000, true), (1400, true), (2400, true), (2401, false), (0, true), (-1, false)] {
            assert_eq!(clock(theirs, 1000, 400).advice.is_none(), good, "{theirs}");
        }
    }
}
