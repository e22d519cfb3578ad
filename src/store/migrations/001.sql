-- Version 1: everything.
--
-- Times are milliseconds since 1970 in UTC, durations microseconds unless the name says otherwise, outcomes and
-- fates small integers; the views show words and RFC 3339. See docs/store.md.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- Every check that was ever seen. `hold_ms`: how long one observation speaks for the time after it.
CREATE TABLE known_check (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    hold_ms INTEGER
);

-- `id` is the start of the attempt in ms times 32,768, plus a slot for attempts within the same ms: the key leads
-- with the time, so a commit appends to few pages however many checks there are. `previous` is the distance to
-- this check's observation stored before: a chain that leads through one check's history without an index.
CREATE TABLE observation (
    id         INTEGER PRIMARY KEY,
    check_id   INTEGER NOT NULL,
    outcome    INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    previous   INTEGER,
    phases     BLOB,
    evidence   INTEGER
);

-- The head of each check's chain.
CREATE TABLE latest (
    check_id    INTEGER PRIMARY KEY,
    observation INTEGER NOT NULL
);

-- What delivery checks measured; the id is the observation's.
CREATE TABLE delivery (
    id          INTEGER PRIMARY KEY,
    check_id    INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    fate        INTEGER NOT NULL,
    accept      INTEGER NOT NULL,
    accept_us   INTEGER,
    latency_us  INTEGER,
    sequence    INTEGER NOT NULL,
    duplicates  INTEGER NOT NULL,
    foreign_    INTEGER NOT NULL,
    reordered   INTEGER NOT NULL,
    integrity   INTEGER
);

-- Reasons, addresses, TLS facts and details as JSON, written once for all observations of a check and day that
-- share them.
CREATE TABLE evidence (
    id   INTEGER PRIMARY KEY,
    day  INTEGER NOT NULL,
    json TEXT NOT NULL
);

CREATE TABLE state (
    check_id INTEGER PRIMARY KEY,
    state    TEXT NOT NULL,
    since    INTEGER NOT NULL,
    memory   TEXT NOT NULL
);

-- AUTOINCREMENT: a number is never given twice, also after retention has removed the highest.
CREATE TABLE incident (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    service         TEXT NOT NULL,
    title           TEXT NOT NULL,
    severity        TEXT NOT NULL,
    worst           TEXT NOT NULL,
    started_after   INTEGER,
    started_by      INTEGER NOT NULL,
    ended_after     INTEGER,
    ended_by        INTEGER,
    opened_at       INTEGER NOT NULL,
    closed_at       INTEGER,
    cause           TEXT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_at INTEGER,
    json            TEXT NOT NULL
);
CREATE INDEX incident_open ON incident (id) WHERE closed_at IS NULL;

CREATE TABLE incident_member (
    incident      INTEGER NOT NULL,
    check_id      INTEGER NOT NULL,
    severity      TEXT NOT NULL,
    worst         TEXT NOT NULL,
    started_after INTEGER,
    started_by    INTEGER NOT NULL,
    ended_after   INTEGER,
    ended_by      INTEGER,
    confirmed_at  INTEGER NOT NULL,
    flapping      INTEGER NOT NULL,
    phase         TEXT,
    kind          TEXT,
    reason        TEXT,
    PRIMARY KEY (incident, check_id)
) WITHOUT ROWID;
CREATE INDEX incident_member_check ON incident_member (check_id);

CREATE TABLE timeline (
    id       INTEGER PRIMARY KEY,
    incident INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    entry    TEXT NOT NULL,
    text     TEXT NOT NULL
);
CREATE INDEX timeline_incident ON timeline (incident);

CREATE TABLE message (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key         TEXT NOT NULL UNIQUE,
    channel     TEXT NOT NULL,
    incident    INTEGER,
    kind        TEXT NOT NULL,
    thread      TEXT NOT NULL,
    position    INTEGER NOT NULL,
    state       TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    settled_at  INTEGER,
    last_error  TEXT,
    handed_over INTEGER NOT NULL,
    json        TEXT NOT NULL
);
CREATE INDEX message_pending ON message (channel, incident, id) WHERE state = 'pending';
CREATE INDEX message_incident ON message (incident);

-- One row per UTC day (days since 1970) and check. `sketch` is a DDSketch of the latencies in ms, mergeable over
-- days; `last_at` and `last_outcome` are what the day leaves to the next: the observation that still speaks.
CREATE TABLE daily (
    day          INTEGER NOT NULL,
    check_id     INTEGER NOT NULL,
    ok           INTEGER NOT NULL,
    slow         INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    unknown      INTEGER NOT NULL,
    up_ms        INTEGER NOT NULL,
    down_ms      INTEGER NOT NULL,
    unknown_ms   INTEGER NOT NULL,
    sent         INTEGER NOT NULL,
    lost         INTEGER NOT NULL,
    late         INTEGER NOT NULL,
    duplicated   INTEGER NOT NULL,
    p50_ms       REAL,
    p95_ms       REAL,
    p99_ms       REAL,
    sketch       BLOB,
    last_at      INTEGER,
    last_outcome INTEGER,
    PRIMARY KEY (day, check_id)
) WITHOUT ROWID;

-- Days that were rolled up and have changed since.
CREATE TABLE dirty_day (day INTEGER PRIMARY KEY);
