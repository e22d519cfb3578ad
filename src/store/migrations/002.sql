-- Version 2: bursts, sessions and messages in flight.

-- Of a burst, how many messages there were and what became of them; NULL for a single message, whose `fate` tells it.
ALTER TABLE delivery ADD COLUMN messages INTEGER;
ALTER TABLE delivery ADD COLUMN late INTEGER;
ALTER TABLE delivery ADD COLUMN pending INTEGER;
ALTER TABLE delivery ADD COLUMN lost INTEGER;
ALTER TABLE delivery ADD COLUMN unsent INTEGER;
ALTER TABLE delivery ADD COLUMN uncertain INTEGER;

ALTER TABLE delivery ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;

-- A login for its own sake, where one was made: whether it was let in, and how long it took.
ALTER TABLE delivery ADD COLUMN login_ok INTEGER;
ALTER TABLE delivery ADD COLUMN login_us INTEGER;

-- Kept sessions opened anew for the attempt.
ALTER TABLE delivery ADD COLUMN reconnections INTEGER NOT NULL DEFAULT 0;

-- Messages in flight: written before they are sent, removed when the fate of all of their attempt is final or an hour
-- has passed.
-- `observed_at` is the start of their attempt; `booked` is 0 until its observation is stored.
CREATE TABLE flight (
    check_id    INTEGER NOT NULL,
    observed_at INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    nonce       INTEGER NOT NULL,
    sent_at     INTEGER NOT NULL,
    accept      INTEGER,
    accept_us   INTEGER,
    arrival_us  INTEGER,
    integrity   INTEGER,
    bounced     INTEGER NOT NULL,
    duplicates  INTEGER NOT NULL,
    reordered   INTEGER NOT NULL,
    booked      INTEGER NOT NULL,
    PRIMARY KEY (check_id, observed_at, sequence)
) WITHOUT ROWID;

-- The key by which a check's own messages are known (256 random bits).
INSERT INTO meta (key, value) VALUES ('tracer_key', randomblob(32));
