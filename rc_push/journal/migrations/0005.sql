-- What of the accounts outlives the process beside their sessions: limits, and what we have created at RingCentral.

CREATE TABLE rest_limits (              -- how much of an account's limits is used up; whoever connects next has to know
  account TEXT PRIMARY KEY,
  state   BLOB NOT NULL
) STRICT;

CREATE TABLE created_subscriptions (    -- at RingCentral, by us: what `subscriptions prune` may remove
  id         TEXT    PRIMARY KEY,
  account    TEXT    NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
