-- The payloads of large batches lie in files beside the database (`segments.py`), so that they are written only once.

CREATE TABLE segments (
  id         INTEGER PRIMARY KEY,         -- its file's name: the head before its first event
  live_bytes INTEGER NOT NULL             -- of the events that are still there; at 0 it goes
) STRICT;

ALTER TABLE events ADD COLUMN segment INTEGER; -- NULL: the payload is in the row; else it is empty there
ALTER TABLE events ADD COLUMN place   INTEGER; -- from this byte of the segment on
ALTER TABLE events ADD COLUMN size    INTEGER; -- so many bytes of it
