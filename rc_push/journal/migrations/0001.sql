-- The first schema. Instants are ms since 1970 UTC. Only the one writer runs this; readers refuse what they don't know.

CREATE TABLE subscriptions (            -- ours, by the name in the file; tallies for the audit
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  received   INTEGER NOT NULL DEFAULT 0, -- messages that RingCentral handed us
  stored     INTEGER NOT NULL DEFAULT 0,
  duplicate  INTEGER NOT NULL DEFAULT 0, -- received again, already stored
  unreadable INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE sources (                  -- what is the same for all events of one connection
  id           INTEGER PRIMARY KEY,
  subscription INTEGER NOT NULL REFERENCES subscriptions (id),
  account      TEXT    NOT NULL,
  transport    TEXT    NOT NULL,
  origin       TEXT    NOT NULL,
  UNIQUE (subscription, account, transport, origin)
) STRICT;

CREATE TABLE events (
  position     INTEGER PRIMARY KEY AUTOINCREMENT, -- never given out twice, even after pruning
  subscription INTEGER NOT NULL,
  source       INTEGER NOT NULL REFERENCES sources (id),
  uuid         TEXT    NOT NULL,
  type         TEXT    NOT NULL,
  received_at  INTEGER NOT NULL,
  payload      BLOB    NOT NULL                   -- RingCentral's JSON object as it came
) STRICT;

CREATE UNIQUE INDEX events_identity ON events (subscription, uuid);

CREATE TABLE unreadables (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  source      INTEGER NOT NULL REFERENCES sources (id),
  received_at INTEGER NOT NULL,
  reason      TEXT    NOT NULL,
  raw         BLOB    NOT NULL
) STRICT;

CREATE TABLE gaps (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  subscription INTEGER NOT NULL REFERENCES subscriptions (id),
  transport    TEXT    NOT NULL,
  since        INTEGER NOT NULL,
  until        INTEGER,                           -- NULL while it is open
  reason       TEXT    NOT NULL,
  certainty    TEXT    NOT NULL CHECK (certainty IN ('certain', 'possible'))
) STRICT;

CREATE TABLE cursors (                  -- where a transport resumes; holds tokens, hence the file's mode 0600
  subscription INTEGER PRIMARY KEY REFERENCES subscriptions (id),
  transport    TEXT    NOT NULL,
  seen_at      INTEGER NOT NULL,
  state        BLOB    NOT NULL,
  is_clean     INTEGER NOT NULL CHECK (is_clean IN (0, 1)) -- the last connection ended with nothing in flight
) STRICT;

CREATE TABLE oauth_sessions (           -- the account's tokens; gateway recovery is bound to them
  account TEXT PRIMARY KEY,
  session BLOB NOT NULL
) STRICT;

CREATE TABLE handlers (                 -- everything up to position is finished, but for the exceptions
  id       INTEGER PRIMARY KEY,
  name     TEXT    NOT NULL UNIQUE,
  position INTEGER NOT NULL
) STRICT;

CREATE TABLE exceptions (
  handler   INTEGER NOT NULL REFERENCES handlers (id),
  position  INTEGER NOT NULL,
  state     TEXT    NOT NULL CHECK (state IN ('parked')),
  attempts  INTEGER NOT NULL,
  parked_at INTEGER NOT NULL,
  reason    TEXT    NOT NULL,
  PRIMARY KEY (handler, position)
) STRICT, WITHOUT ROWID;
