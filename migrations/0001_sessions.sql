-- One row is one session. Times are epoch milliseconds.
create table sessions (
    id         text    not null primary key, -- opaque; names the session, opens nothing
    record     blob    not null,             -- the bytes that Redis would hold: src/session/record.rs
    user_id    text,                         -- whose it is, once somebody is logged in
    expires_at integer not null              -- gone from then on, purged or not
) strict;

-- Listing and revoking by user, the latest expiry first.
create index sessions_by_user on sessions (user_id, expires_at desc, id desc) where user_id is not null;

-- Purging.
create index sessions_by_expiry on sessions (expires_at);
