-- The public views, made anew by every migration. Their columns are described in docs/store.md and change only by
-- addition. They use nothing newer than SQLite 3.35 and no function of bongsu's own, so any sqlite3 reads them.

DROP VIEW IF EXISTS incidents;
CREATE VIEW incidents AS
SELECT
    i.id,
    i.service,
    i.title,
    i.severity,
    i.worst,
    CASE WHEN i.closed_at IS NULL THEN 'open' ELSE 'closed' END AS state,
    strftime('%Y-%m-%dT%H:%M:%S', i.started_after / 1000, 'unixepoch') || printf('.%03dZ', i.started_after % 1000) AS started_after,
    strftime('%Y-%m-%dT%H:%M:%S', i.started_by / 1000, 'unixepoch') || printf('.%03dZ', i.started_by % 1000) AS started_by,
    strftime('%Y-%m-%dT%H:%M:%S', i.ended_after / 1000, 'unixepoch') || printf('.%03dZ', i.ended_after % 1000) AS ended_after,
    strftime('%Y-%m-%dT%H:%M:%S', i.ended_by / 1000, 'unixepoch') || printf('.%03dZ', i.ended_by % 1000) AS ended_by,
    strftime('%Y-%m-%dT%H:%M:%S', i.opened_at / 1000, 'unixepoch') || printf('.%03dZ', i.opened_at % 1000) AS opened_at,
    strftime('%Y-%m-%dT%H:%M:%S', i.closed_at / 1000, 'unixepoch') || printf('.%03dZ', i.closed_at % 1000) AS closed_at,
    max(0, coalesce(i.ended_by, CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)) - i.started_by) / 1000.0 AS duration_s,
    i.cause,
    i.acknowledged_by,
    strftime('%Y-%m-%dT%H:%M:%S', i.acknowledged_at / 1000, 'unixepoch') || printf('.%03dZ', i.acknowledged_at % 1000) AS acknowledged_at,
    (SELECT count(*) FROM incident_member m WHERE m.incident = i.id) AS checks,
    (SELECT count(*) FROM message m WHERE m.incident = i.id) AS messages,
    (SELECT count(*) FROM message m WHERE m.incident = i.id AND m.state = 'delivered') AS messages_delivered,
    json_extract(i.json, '$.labels') AS labels
FROM incident i;

DROP VIEW IF EXISTS incident_checks;
CREATE VIEW incident_checks AS
SELECT
    m.incident,
    k.name AS check_name,
    m.severity,
    m.worst,
    strftime('%Y-%m-%dT%H:%M:%S', m.started_after / 1000, 'unixepoch') || printf('.%03dZ', m.started_after % 1000) AS started_after,
    strftime('%Y-%m-%dT%H:%M:%S', m.started_by / 1000, 'unixepoch') || printf('.%03dZ', m.started_by % 1000) AS started_by,
    strftime('%Y-%m-%dT%H:%M:%S', m.ended_after / 1000, 'unixepoch') || printf('.%03dZ', m.ended_after % 1000) AS ended_after,
    strftime('%Y-%m-%dT%H:%M:%S', m.ended_by / 1000, 'unixepoch') || printf('.%03dZ', m.ended_by % 1000) AS ended_by,
    strftime('%Y-%m-%dT%H:%M:%S', m.confirmed_at / 1000, 'unixepoch') || printf('.%03dZ', m.confirmed_at % 1000) AS confirmed_at,
    m.flapping,
    m.phase,
    m.kind,
    m.reason
FROM incident_member m JOIN known_check k ON k.id = m.check_id;

DROP VIEW IF EXISTS incident_timeline;
CREATE VIEW incident_timeline AS
SELECT
    t.incident,
    strftime('%Y-%m-%dT%H:%M:%S', t.at / 1000, 'unixepoch') || printf('.%03dZ', t.at % 1000) AS at,
    t.entry,
    t.text
FROM timeline t ORDER BY t.id;

DROP VIEW IF EXISTS outbox;
CREATE VIEW outbox AS
SELECT
    m.id,
    m.key,
    m.channel,
    m.incident,
    m.kind,
    m.state,
    m.attempts,
    strftime('%Y-%m-%dT%H:%M:%S', m.created_at / 1000, 'unixepoch') || printf('.%03dZ', m.created_at % 1000) AS created_at,
    strftime('%Y-%m-%dT%H:%M:%S', m.next_at / 1000, 'unixepoch') || printf('.%03dZ', m.next_at % 1000) AS next_at,
    strftime('%Y-%m-%dT%H:%M:%S', m.settled_at / 1000, 'unixepoch') || printf('.%03dZ', m.settled_at % 1000) AS settled_at,
    m.last_error,
    m.handed_over,
    m.thread,
    m.position
FROM message m;

DROP VIEW IF EXISTS observations;
CREATE VIEW observations AS
SELECT
    o.id,
    k.name AS check_name,
    strftime('%Y-%m-%dT%H:%M:%S', (o.id >> 8) / 1000, 'unixepoch') || printf('.%03dZ', (o.id >> 8) % 1000) AS at,
    CASE o.verdict & 3 WHEN 0 THEN 'ok' WHEN 1 THEN 'slow' WHEN 2 THEN 'failed' ELSE 'unknown' END AS outcome,
    (o.verdict >> 2) / 1000.0 AS latency_ms,
    coalesce(d.duration_us, o.verdict >> 2) / 1000.0 AS duration_ms,
    json_extract(e.json, '$.reason.phase') AS phase,
    json_extract(e.json, '$.reason.kind') AS kind,
    json_extract(e.json, '$.reason.text') AS reason,
    json_extract(e.json, '$.address') AS address,
    json_extract(e.json, '$.account.name') AS account,
    CASE d.fate WHEN 0 THEN 'arrived' WHEN 1 THEN 'late' WHEN 2 THEN 'pending' WHEN 3 THEN 'lost'
        WHEN 4 THEN 'unsent' WHEN 5 THEN 'uncertain' END AS fate,
    CASE d.accept WHEN 0 THEN 'accepted' WHEN 1 THEN 'rejected' WHEN 2 THEN 'unreachable' WHEN 3 THEN 'uncertain'
        WHEN 4 THEN 'deferred' END AS accept,
    d.accept_us / 1000.0 AS accept_ms,
    d.sequence,
    d.duplicates,
    d.foreign_ AS foreign_messages,
    d.reordered,
    CASE d.integrity WHEN 0 THEN 'equal' WHEN 1 THEN 'normalised' WHEN 2 THEN 'transcoded'
        WHEN 3 THEN 'truncated' WHEN 4 THEN 'corrupt' END AS integrity,
    d.changed,
    CASE WHEN d.id IS NOT NULL THEN coalesce(d.messages, 1) END AS messages,
    coalesce(d.late, d.fate = 1) AS messages_late,
    coalesce(d.pending, d.fate = 2) AS messages_pending,
    coalesce(d.lost, d.fate = 3) AS messages_lost,
    coalesce(d.unsent, d.fate = 4) AS messages_unsent,
    coalesce(d.uncertain, d.fate = 5) AS messages_uncertain,
    CASE d.login_ok WHEN 0 THEN 'failed' WHEN 1 THEN 'ok' END AS login,
    d.login_us / 1000.0 AS login_ms,
    d.reconnections,
    e.json AS evidence
FROM observation o
JOIN known_check k ON k.id = o.check_id
LEFT JOIN delivery d ON d.id = o.id
LEFT JOIN evidence e ON e.day = (o.id >> 8) / 86400000 AND e.check_id = o.check_id AND e.number = o.evidence;

DROP VIEW IF EXISTS checks;
CREATE VIEW checks AS
SELECT
    k.name AS check_name,
    s.state,
    strftime('%Y-%m-%dT%H:%M:%S', s.since / 1000, 'unixepoch') || printf('.%03dZ', s.since % 1000) AS since,
    strftime('%Y-%m-%dT%H:%M:%S', (o.id >> 8) / 1000, 'unixepoch') || printf('.%03dZ', (o.id >> 8) % 1000) AS last_at,
    CASE o.verdict & 3 WHEN 0 THEN 'ok' WHEN 1 THEN 'slow' WHEN 2 THEN 'failed' WHEN 3 THEN 'unknown' END AS last_outcome,
    (o.verdict >> 2) / 1000.0 AS last_latency_ms
FROM known_check k
LEFT JOIN state s ON s.check_id = k.id
LEFT JOIN latest l ON l.check_id = k.id
LEFT JOIN observation o ON o.id = l.observation;

-- Days that are not rolled up yet, today among them, computed from the raw observations when asked.
DROP VIEW IF EXISTS open_daily;
CREATE VIEW open_daily AS
WITH RECURSIVE
bound AS (
    SELECT coalesce((SELECT value FROM meta WHERE key = 'rolled_until'), 0) AS first_day,
           CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) AS now_ms
),
raw AS (
    SELECT o.id, o.check_id, o.id >> 8 AS at, (o.id >> 8) / 86400000 AS day, o.verdict & 3 AS outcome,
           o.verdict >> 2 AS latency_us
    FROM observation o WHERE o.id >= (SELECT first_day FROM bound) * (86400000 << 8)
),
-- What each observation speaks for: until the next one, and never longer than the check's hold.
ordered AS (
    SELECT id, check_id, at, outcome FROM raw
    UNION ALL
    SELECT -1, check_id, last_at, last_outcome FROM daily
    WHERE day = (SELECT first_day - 1 FROM bound) AND last_at IS NOT NULL
),
span AS (
    SELECT o.check_id, o.outcome, max(o.at, (SELECT first_day FROM bound) * 86400000) AS at,
           min(o.at + coalesce(k.hold_ms, 3600000),
               coalesce(lead(o.at) OVER (PARTITION BY o.check_id ORDER BY o.at, o.id), 9000000000000000),
               (SELECT now_ms FROM bound)) AS until
    FROM ordered o JOIN known_check k ON k.id = o.check_id
),
-- The few spans that cross midnight, cut there.
tail AS (
    SELECT check_id, outcome, (at / 86400000 + 1) * 86400000 AS at, until FROM span
    WHERE until > (at / 86400000 + 1) * 86400000
    UNION ALL
    SELECT check_id, outcome, (at / 86400000 + 1) * 86400000, until FROM tail
    WHERE until > (at / 86400000 + 1) * 86400000
),
piece AS (
    SELECT check_id, outcome, at, until FROM span
    UNION ALL
    SELECT check_id, outcome, at, until FROM tail
),
held AS (
    SELECT check_id, at / 86400000 AS day,
           sum(CASE WHEN outcome <= 1 THEN max(0, min(until, (at / 86400000 + 1) * 86400000) - at) ELSE 0 END) AS up_ms,
           sum(CASE WHEN outcome = 2 THEN max(0, min(until, (at / 86400000 + 1) * 86400000) - at) ELSE 0 END) AS down_ms,
           sum(CASE WHEN outcome = 3 THEN max(0, min(until, (at / 86400000 + 1) * 86400000) - at) ELSE 0 END) AS unknown_ms
    FROM piece GROUP BY check_id, day
),
counted AS (
    SELECT check_id, day, sum(outcome = 0) AS ok, sum(outcome = 1) AS slow, sum(outcome = 2) AS failed, sum(outcome = 3) AS unknown
    FROM raw GROUP BY check_id, day
),
ranked AS (
    SELECT check_id, day, latency_us,
           row_number() OVER (PARTITION BY check_id, day ORDER BY latency_us) - 1 AS rank,
           count(*) OVER (PARTITION BY check_id, day) - 1 AS top
    FROM raw WHERE outcome <= 1
),
quantile AS (
    SELECT check_id, day,
           max(CASE WHEN rank = top * 50 / 100 THEN latency_us END) / 1000.0 AS p50_ms,
           max(CASE WHEN rank = top * 95 / 100 THEN latency_us END) / 1000.0 AS p95_ms,
           max(CASE WHEN rank = top * 99 / 100 THEN latency_us END) / 1000.0 AS p99_ms
    FROM ranked GROUP BY check_id, day
),
messages AS (
    SELECT check_id, (id >> 8) / 86400000 AS day,
           sum(CASE WHEN messages IS NULL THEN accept IN (0, 3) ELSE messages - unsent END) AS sent,
           sum(coalesce(lost, fate = 3)) AS lost, sum(coalesce(late, fate = 1)) AS late,
           sum(CASE WHEN messages IS NULL THEN duplicates > 0 ELSE min(duplicates, messages) END) AS duplicated
    FROM delivery WHERE id >= (SELECT first_day FROM bound) * (86400000 << 8) GROUP BY check_id, day
)
SELECT h.check_id, h.day,
       coalesce(c.ok, 0) AS ok, coalesce(c.slow, 0) AS slow, coalesce(c.failed, 0) AS failed, coalesce(c.unknown, 0) AS unknown,
       h.up_ms, h.down_ms, h.unknown_ms,
       coalesce(m.sent, 0) AS sent, coalesce(m.lost, 0) AS lost, coalesce(m.late, 0) AS late, coalesce(m.duplicated, 0) AS duplicated,
       q.p50_ms, q.p95_ms, q.p99_ms
FROM held h
LEFT JOIN counted c ON c.check_id = h.check_id AND c.day = h.day
LEFT JOIN quantile q ON q.check_id = h.check_id AND q.day = h.day
LEFT JOIN messages m ON m.check_id = h.check_id AND m.day = h.day
WHERE c.check_id IS NOT NULL OR h.up_ms + h.down_ms + h.unknown_ms > 0;

DROP VIEW IF EXISTS availability_daily;
CREATE VIEW availability_daily AS
SELECT
    k.name AS check_name,
    date(a.day * 86400, 'unixepoch') AS day,
    a.ok,
    a.slow,
    a.failed,
    a.unknown,
    CASE WHEN a.up_ms + a.down_ms > 0 THEN a.up_ms * 1.0 / (a.up_ms + a.down_ms) END AS availability,
    (a.up_ms + a.down_ms) * 1.0
        / max(1, min(86400000, CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) - a.day * 86400000)) AS coverage,
    a.up_ms / 1000.0 AS up_s,
    a.down_ms / 1000.0 AS down_s,
    a.unknown_ms / 1000.0 AS unknown_s,
    a.p50_ms,
    a.p95_ms,
    a.p99_ms,
    a.sent AS messages_sent,
    a.lost AS messages_lost,
    a.late AS messages_late,
    a.duplicated AS messages_duplicated,
    a.final
FROM (
    SELECT check_id, day, ok, slow, failed, unknown, up_ms, down_ms, unknown_ms, sent, lost, late, duplicated,
           p50_ms, p95_ms, p99_ms, 1 AS final
    FROM daily WHERE day < coalesce((SELECT value FROM meta WHERE key = 'rolled_until'), 0)
    UNION ALL
    SELECT check_id, day, ok, slow, failed, unknown, up_ms, down_ms, unknown_ms, sent, lost, late, duplicated,
           p50_ms, p95_ms, p99_ms, 0
    FROM open_daily
) a
JOIN known_check k ON k.id = a.check_id;
