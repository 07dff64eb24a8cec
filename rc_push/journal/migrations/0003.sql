-- What the daemon itself tells handlers (rc-push.gap) is among the events, and none that RingCentral handed us.

ALTER TABLE subscriptions ADD COLUMN told INTEGER NOT NULL DEFAULT 0; -- such events; `stored` does not count them
