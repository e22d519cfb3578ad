-- Version 3: smaller rows, and days sealed into blocks.

-- Numbers are the start of the attempt in ms times 256 instead of 32,768, plus a slot: seven bytes instead of eight.
-- Which row was stored before is told as twice ((milliseconds between them) * 8 + its slot), or, when that slot is 8 or
-- more, as 1 more than twice ((milliseconds) * 256 + its slot): three bytes instead of four to six.
-- `verdict` is the latency in microseconds times 4, plus the outcome.
-- `evidence` counts from 0 within a check and its day, so that most rows need no byte for it.
CREATE TABLE observation_of_3 (
    id       INTEGER PRIMARY KEY,
    check_id INTEGER NOT NULL,
    verdict  INTEGER NOT NULL,
    previous INTEGER,
    phases   BLOB,
    evidence INTEGER
);

CREATE TABLE evidence_of_3 (
    day      INTEGER NOT NULL,
    check_id INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    json     TEXT NOT NULL,
    PRIMARY KEY (day, check_id, number)
) WITHOUT ROWID;

CREATE TABLE moving (
    evidence INTEGER NOT NULL,
    day      INTEGER NOT NULL,
    check_id INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    PRIMARY KEY (evidence, day, check_id)
) WITHOUT ROWID;

INSERT INTO moving
SELECT evidence, day, check_id, row_number() OVER (PARTITION BY day, check_id ORDER BY evidence) - 1
FROM (SELECT DISTINCT evidence, (id >> 15) / 86400000 AS day, check_id FROM observation WHERE evidence IS NOT NULL);

INSERT INTO evidence_of_3
SELECT m.day, m.check_id, m.number, e.json FROM moving m JOIN evidence e ON e.id = m.evidence;

-- More than 256 attempts in a millisecond do not happen; should they have, those beyond are left out.
INSERT OR IGNORE INTO observation_of_3
SELECT ((o.id >> 15) << 8) + min(o.id & 32767, 255), o.check_id,
       (min(o.latency_us, 2305843009213693951) << 2) | o.outcome,
       CASE
           WHEN o.previous IS NULL THEN NULL
           WHEN (o.id - o.previous) & 32767 < 8
               THEN ((((o.id >> 15) - ((o.id - o.previous) >> 15)) << 3) + ((o.id - o.previous) & 7)) << 1
           ELSE (((((o.id >> 15) - ((o.id - o.previous) >> 15)) << 8) + min((o.id - o.previous) & 32767, 255)) << 1) + 1
       END,
       o.phases, m.number
FROM observation o
LEFT JOIN moving m ON m.evidence = o.evidence AND m.day = (o.id >> 15) / 86400000 AND m.check_id = o.check_id
ORDER BY o.id;

UPDATE OR IGNORE delivery SET id = ((id >> 15) << 8) + min(id & 32767, 255);
UPDATE latest SET observation = ((observation >> 15) << 8) + min(observation & 32767, 255);

DROP TABLE moving;
DROP TABLE evidence;
DROP TABLE observation;
ALTER TABLE evidence_of_3 RENAME TO evidence;
ALTER TABLE observation_of_3 RENAME TO observation;

-- Days of one check whose raw observations are gone: `id` is the day (since 1970) times 2^44, plus the check's number
-- times 4,096, plus a part; a later part is of later observations.
CREATE TABLE block (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
