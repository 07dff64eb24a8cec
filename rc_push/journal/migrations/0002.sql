-- Handlers become independent consumers: what waits for a retry outlives the process, counts make the audit possible.

ALTER TABLE handlers ADD COLUMN stored_before INTEGER NOT NULL DEFAULT 0; -- of all stored events, those not meant for it
ALTER TABLE handlers ADD COLUMN delivered     INTEGER NOT NULL DEFAULT 0; -- up to position, and of the exceptions
ALTER TABLE handlers ADD COLUMN filtered      INTEGER NOT NULL DEFAULT 0; -- up to position
ALTER TABLE handlers ADD COLUMN dropped       INTEGER NOT NULL DEFAULT 0; -- parked, then dropped by its operator
ALTER TABLE handlers ADD COLUMN is_paused     INTEGER NOT NULL DEFAULT 0;

-- What a handler was done with before is not known by kind: its counts begin now.
UPDATE handlers SET stored_before = (SELECT ifnull(sum(stored), 0) FROM subscriptions)
  - (SELECT count(*) FROM events e WHERE e.position > handlers.position)
  - (SELECT count(*) FROM exceptions x WHERE x.handler = handlers.id);

CREATE TABLE unfinished (               -- the exceptions from a handler's position: passed, and not done
  handler    INTEGER NOT NULL REFERENCES handlers (id),
  position   INTEGER NOT NULL,
  state      TEXT    NOT NULL CHECK (state IN ('waiting', 'parked')),
  is_replay  INTEGER NOT NULL CHECK (is_replay IN (0, 1)), -- it was done before, so the audit leaves it out
  key        TEXT    NOT NULL,          -- what is held back with it
  attempts   INTEGER NOT NULL,          -- those that count towards max_attempts
  calls      INTEGER NOT NULL,          -- all of them
  since      INTEGER NOT NULL,          -- the first call; when it came here where there was none
  changed_at INTEGER NOT NULL,          -- when it was parked, or failed last
  due_at     INTEGER,                   -- not before; NULL: parked, or held back by another of its key
  reason     TEXT    NOT NULL,
  PRIMARY KEY (handler, position)
) STRICT, WITHOUT ROWID;

INSERT INTO unfinished SELECT handler, position, 'parked', 0, '', attempts, attempts, parked_at, parked_at, NULL, reason
  FROM exceptions;
DROP TABLE exceptions;
CREATE INDEX unfinished_position ON unfinished (position);

CREATE TABLE attempts (                 -- calls for events that did not go well at once; the newest of each event
  handler  INTEGER NOT NULL REFERENCES handlers (id),
  position INTEGER NOT NULL,
  number   INTEGER NOT NULL,
  began_at INTEGER NOT NULL,
  took_ms  INTEGER NOT NULL,
  outcome  TEXT    NOT NULL CHECK (outcome IN ('done', 'failed', 'later', 'rejected')),
  error    TEXT    NOT NULL,
  detail   TEXT    NOT NULL,            -- what a handler adds for its operator: can hold message texts, is never logged
  PRIMARY KEY (handler, position, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_position ON attempts (position);

CREATE TABLE replays (                  -- asked for and not over
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  handler   INTEGER NOT NULL REFERENCES handlers (id),
  position  INTEGER NOT NULL,           -- all of it up to here is handed over, or in `unfinished`
  until     INTEGER NOT NULL,           -- its last position
  selection TEXT    NOT NULL,           -- JSON: which of the events between them
  rate      REAL,                       -- events a second; NULL: as fast as it goes
  delivered INTEGER NOT NULL DEFAULT 0,
  asked_at  INTEGER NOT NULL
) STRICT;
