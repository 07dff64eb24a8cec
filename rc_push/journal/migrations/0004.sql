-- What of a webhook subscription outlives the process, whatever the transport is now: the tokens by which posts are ours.

CREATE TABLE webhooks (
  subscription TEXT PRIMARY KEY,          -- ours, by the name in the file
  state        BLOB NOT NULL              -- the transport's own JSON; holds tokens, hence the file's mode 0600
) STRICT;
