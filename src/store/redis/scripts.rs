//! The scripts: each compares and writes in one step. `KEYS[1]` is a session's key and `KEYS[2]`, where an Express writes
//! too, that of its tombstone; they answer 0 when there is no such entry, 1 when it is not the expected one, 2 when done.
//!
//! `allow-oom`: what takes no more room, or as good as none, is done also when Redis is at `maxmemory`.

use std::sync::LazyLock;

use redis::Script;

/// Compare-and-set on the raw value: other writers do not know of versions.
const COMPARE_AND_SET: &str = "
local value = redis.call('GET', KEYS[1])
if not value or (KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1) then return 0 end
if value ~= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 2";

/// `ARGV`: the expected value, the new one, its remaining time in ms.
pub(super) static REPLACE: LazyLock<Script> = LazyLock::new(|| Script::new(COMPARE_AND_SET));

/// The same, for a value that does not grow.
pub(super) static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("#!lua flags=allow-oom{COMPARE_AND_SET}")));

/// Compare-and-delete. `ARGV`: the expected value, how long the tombstone stays in ms.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom
local value = redis.call('GET', KEYS[1])
if not value or (KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1) then return 0 end
if value ~= ARGV[1] then return 1 end
redis.call('DEL', KEYS[1])
if KEYS[2] then redis.call('SET', KEYS[2], '', 'PX', ARGV[2]) end
return 2",
    )
});

/// Deletes, and leaves a tombstone whether or not there was anything: an Express may be about to save it. `ARGV`: how
/// long the tombstone stays, in ms.
pub(super) static BURY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom
local buried = redis.call('EXISTS', KEYS[2]) == 1
local deleted = redis.call('DEL', KEYS[1]) == 1
redis.call('SET', KEYS[2], '', 'PX', ARGV[1])
return deleted and not buried and 2 or 0",
    )
});

/// Puts an id into a user's index (`KEYS[1]`), or moves it to a later score. `ARGV`: id, score, the index's remaining time
/// in ms. Its own script, for `allow-oom`: an entry that exists takes no more room, and a session that outlives its entry
/// could not be revoked by user.
pub(super) static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'GT')
return 2",
    )
});

/// Corrects entries of an index (`KEYS[1]`) whose scores are still those that were read: another writer's later word
/// about an entry stands. `ARGV`, three for each entry: id, the score that was read, the new score, or nothing to remove
/// the entry. Answers how many it removed.
pub(super) static CORRECT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom
local removed = 0
for i = 1, #ARGV, 3 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or '') == tonumber(ARGV[i + 1]) then
    if ARGV[i + 2] == '' then
      removed = removed + redis.call('ZREM', KEYS[1], ARGV[i])
    else
      redis.call('ZADD', KEYS[1], 'XX', ARGV[i + 2], ARGV[i])
    end
  end
end
return removed",
    )
});
