-- A database of version 1 with one record of each kind, as the first release wrote it. Never edit.
BEGIN TRANSACTION;
CREATE TABLE "artifacts" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "digest" TEXT NOT NULL DEFAULT '',
  "name" TEXT NOT NULL DEFAULT '',
  "type" TEXT NOT NULL DEFAULT '',
  "value" TEXT NOT NULL DEFAULT '{}',
  "size" INTEGER NOT NULL DEFAULT 0,
  "run" TEXT NOT NULL DEFAULT '',
  "created" REAL NOT NULL DEFAULT 0.0
);
INSERT INTO "artifacts" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','scores','frame','{"codec":"parquet","blobs":["bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]}',5,'',0.0);
CREATE TABLE attribute_names (
  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, field TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, field, name)
);
INSERT INTO "attribute_names" VALUES(1,'run','params','depth');
INSERT INTO "attribute_names" VALUES(2,'run','params','lr');
INSERT INTO "attribute_names" VALUES(3,'run','params','on');
INSERT INTO "attribute_names" VALUES(4,'run','params','list');
INSERT INTO "attribute_names" VALUES(5,'run','metrics','auc');
INSERT INTO "attribute_names" VALUES(6,'run','metrics','n');
INSERT INTO "attribute_names" VALUES(7,'run','tags','team');
INSERT INTO "attribute_names" VALUES(8,'model','metrics','auc');
CREATE TABLE attributes (
  record INTEGER NOT NULL, name INTEGER NOT NULL, value, PRIMARY KEY (record, name)
) WITHOUT ROWID;
INSERT INTO "attributes" VALUES(1,1,3);
INSERT INTO "attributes" VALUES(1,2,0.1);
INSERT INTO "attributes" VALUES(1,3,1);
INSERT INTO "attributes" VALUES(1,4,'[1,"a"]');
INSERT INTO "attributes" VALUES(1,5,0.93);
INSERT INTO "attributes" VALUES(1,6,12);
INSERT INTO "attributes" VALUES(1,7,'risk');
INSERT INTO "attributes" VALUES(1,8,0.9);
CREATE TABLE boucle (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "boucle" VALUES('layout','{"fixed": "\nCREATE TABLE IF NOT EXISTS boucle (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;\nCREATE TABLE IF NOT EXISTS attribute_names (\n  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, field TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, field, name)\n);\nCREATE TABLE IF NOT EXISTS attributes (\n  record INTEGER NOT NULL, name INTEGER NOT NULL, value, PRIMARY KEY (record, name)\n) WITHOUT ROWID;\nCREATE INDEX IF NOT EXISTS attributes_value ON attributes (name, value);\nCREATE TABLE IF NOT EXISTS edges (\n  source TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL, time REAL NOT NULL, detail TEXT NOT NULL,\n  PRIMARY KEY (source, relation, target)\n) WITHOUT ROWID;\nCREATE INDEX IF NOT EXISTS edges_target ON edges (target, relation);\nCREATE TABLE IF NOT EXISTS points (\n  number INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,\n  first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, last_time REAL, last_value REAL,\n  packing INTEGER NOT NULL, data BLOB NOT NULL\n);\nCREATE INDEX IF NOT EXISTS points_owner ON points (owner, name);\n", "kinds": {"artifact": {"created": ["real", false, false, 0.0], "digest": ["text", false, false, null], "name": ["text", false, true, ""], "run": ["text", false, false, ""], "size": ["integer", false, false, 0], "type": ["text", false, true, ""], "value": ["json", false, false, {}]}, "code": {"branch": ["text", false, false, ""], "commit": ["text", false, true, ""], "created": ["real", false, false, 0.0], "diff": ["text", false, false, ""], "digest": ["text", false, false, null], "dirty": ["boolean", false, false, false], "entry": ["text", false, false, null], "repository": ["text", false, false, ""], "sources": ["text", false, false, null]}, "dataset": {"actor": ["text", false, false, ""], "created": ["real", false, true, null], "description": ["text", false, false, ""], "digest": ["text", false, true, null], "licence": ["text", false, false, ""], "manifest": ["text", false, false, null], "name": ["text", false, true, null], "owner": ["text", false, false, ""], "rows": ["integer", false, false, null], "run": ["text", false, false, ""], "schema": ["json", false, false, null], "size": ["integer", false, false, null], "source": ["text", false, false, ""], "statistics": ["text", false, false, ""], "tags": ["json", false, false, {}], "version": ["integer", false, false, null]}, "event": {"actor": ["text", false, false, ""], "data": ["json", false, false, {}], "digest": ["text", false, false, ""], "previous": ["text", false, false, ""], "reason": ["text", false, false, ""], "sequence": ["integer", false, false, 0], "subject": ["text", false, true, ""], "time": ["real", false, false, 0.0], "type": ["text", false, true, null]}, "model": {"actor": ["text", false, false, ""], "artifact": ["text", false, false, null], "created": ["real", false, false, 0.0], "description": ["text", false, false, ""], "digest": ["text", false, true, null], "framework": ["text", false, false, ""], "metrics": ["json", false, true, {}], "name": ["text", false, true, null], "run": ["text", false, false, ""], "stage": ["text", false, true, "none"], "tags": ["json", false, false, {}], "task": ["text", false, false, ""], "version": ["integer", false, false, null]}, "rollout": {"actor": ["text", false, false, ""], "after": ["integer", false, false, 0], "before": ["integer", false, false, 0], "ended": ["real", false, false, 0.0], "id": ["text", false, false, null], "model": ["text", false, false, ""], "phases": ["json", false, false, {}], "reason": ["text", false, false, ""], "service": ["text", false, true, null], "started": ["real", false, false, 0.0], "status": ["text", false, true, "running"], "strategy": ["text", false, false, null]}, "run": {"actor": ["text", false, false, ""], "attempts": ["integer", false, false, 1], "cache_key": ["text", false, true, ""], "code": ["text", false, true, ""], "ended": ["real", false, false, 0.0], "environment": ["text", false, false, ""], "error": ["text", false, false, ""], "flushed": ["integer", false, false, 0], "host": ["text", false, false, ""], "id": ["text", false, false, null], "inputs": ["json", false, false, {}], "log": ["text", false, false, ""], "metrics": ["json", false, true, {}], "name": ["text", false, true, null], "outputs": ["json", false, false, {}], "params": ["json", false, true, {}], "parent": ["text", false, true, ""], "pid": ["integer", false, false, 0], "reads": ["json", false, false, {}], "seed": ["integer", false, false, 0], "started": ["real", false, true, null], "status": ["text", false, true, "running"], "tags": ["json", false, true, {}], "type": ["text", false, true, "run"]}, "service": {"actor": ["text", false, false, ""], "created": ["real", false, false, 0.0], "digest": ["text", false, false, ""], "folder": ["text", false, false, ""], "handle": ["json", false, false, {}], "model": ["text", false, true, null], "name": ["text", false, true, null], "revision": ["integer", false, false, null], "status": ["text", false, true, "starting"], "target": ["text", false, false, "process"], "url": ["text", false, false, ""]}, "verdict": {"actor": ["text", false, false, ""], "check": ["text", false, true, null], "created": ["real", false, false, 0.0], "evidence": ["json", false, false, {}], "id": ["text", false, false, null], "run": ["text", false, false, ""], "score": ["real", true, false, null], "status": ["text", false, true, null], "subject": ["text", false, true, null], "summary": ["text", false, false, ""], "threshold": ["real", true, false, null]}}, "views": {"logs": "\nSELECT coalesce(nullif(ended, 0), started) AS time, ''run'' AS kind, ''run:'' || key AS subject, name, status,\n  error AS message, log FROM runs\nUNION ALL\nSELECT time, ''event'', subject, type, '''', reason, '''' FROM events\nORDER BY 1", "metrics": "\nSELECT r.key AS run, n.name, p.last_step AS step, coalesce(p.last_time, nullif(r.ended, 0), r.started) AS time, a.value\nFROM attributes a\nJOIN attribute_names n ON n.number = a.name AND n.kind = ''run'' AND n.field = ''metrics''\nJOIN runs r ON r.number = a.record\nLEFT JOIN points p ON p.number = (SELECT max(number) FROM points WHERE owner = ''run:'' || r.key AND name = n.name)\nUNION ALL\nSELECT substr(p.owner, 5), p.name, p.last_step, p.last_time, p.last_value FROM points p\nWHERE p.owner LIKE ''run:%''\n  AND p.number = (SELECT max(number) FROM points WHERE owner = p.owner AND name = p.name)\n  AND NOT EXISTS (\n    SELECT 1 FROM runs r JOIN attributes a ON a.record = r.number JOIN attribute_names n ON n.number = a.name\n    WHERE r.key = substr(p.owner, 5) AND n.kind = ''run'' AND n.field = ''metrics'' AND n.name = p.name\n  )", "processed_data": "\nSELECT ''dataset'' AS kind, key, name, digest, size, run, created FROM datasets WHERE run <> ''''\nUNION ALL\nSELECT ''artifact'', key, name, digest, size, run, created FROM artifacts WHERE type = ''frame''", "raw_data": "\nSELECT key, name, version, digest, rows, size, source, created, actor, owner FROM datasets WHERE run = ''''"}}');
CREATE TABLE "codes" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "digest" TEXT NOT NULL DEFAULT '',
  "entry" TEXT NOT NULL DEFAULT '',
  "sources" TEXT NOT NULL DEFAULT '',
  "repository" TEXT NOT NULL DEFAULT '',
  "commit" TEXT NOT NULL DEFAULT '',
  "branch" TEXT NOT NULL DEFAULT '',
  "dirty" INTEGER NOT NULL DEFAULT 0,
  "diff" TEXT NOT NULL DEFAULT '',
  "created" REAL NOT NULL DEFAULT 0.0
);
INSERT INTO "codes" VALUES(1,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','train.py','ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss','','abc','',1,'',2.0);
CREATE TABLE "datasets" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "name" TEXT NOT NULL DEFAULT '',
  "version" INTEGER NOT NULL DEFAULT 0,
  "digest" TEXT NOT NULL DEFAULT '',
  "manifest" TEXT NOT NULL DEFAULT '',
  "rows" INTEGER NOT NULL DEFAULT 0,
  "size" INTEGER NOT NULL DEFAULT 0,
  "schema" TEXT NOT NULL DEFAULT '{}',
  "statistics" TEXT NOT NULL DEFAULT '',
  "source" TEXT NOT NULL DEFAULT '',
  "created" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT '',
  "run" TEXT NOT NULL DEFAULT '',
  "owner" TEXT NOT NULL DEFAULT '',
  "licence" TEXT NOT NULL DEFAULT '',
  "description" TEXT NOT NULL DEFAULT '',
  "tags" TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO "datasets" VALUES(1,'tx@3','tx',3,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm',10,99,'{"columns":[{"name":"a"}]}','','',1.5,'','','','','','{"pii":true,"größe":"naïve ☕"}');
CREATE TABLE edges (
  source TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL, time REAL NOT NULL, detail TEXT NOT NULL,
  PRIMARY KEY (source, relation, target)
) WITHOUT ROWID;
INSERT INTO "edges" VALUES('run:01RUN','made','artifact:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',2.0,'{}');
INSERT INTO "edges" VALUES('run:01RUN','used','dataset:tx@3',1.0,'{"asked":"tx@latest"}');
CREATE TABLE "events" (
  key TEXT NOT NULL UNIQUE,
  "sequence" INTEGER PRIMARY KEY,
  "type" TEXT NOT NULL DEFAULT '',
  "subject" TEXT NOT NULL DEFAULT '',
  "time" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT '',
  "reason" TEXT NOT NULL DEFAULT '',
  "data" TEXT NOT NULL DEFAULT '{}',
  "previous" TEXT NOT NULL DEFAULT '',
  "digest" TEXT NOT NULL DEFAULT ''
);
INSERT INTO "events" VALUES('1',1,'model.registered','model:churn@1',5.0,'ada','','{"größe":1}','','13c5a2c7c9e1fc5ba3cf80c207eb34637af9d70a76cb53d09b2c589e03207cfa');
INSERT INTO "events" VALUES('2',2,'model.stage','model:churn@1',6.0,'','gate','{}','13c5a2c7c9e1fc5ba3cf80c207eb34637af9d70a76cb53d09b2c589e03207cfa','fa58756297afa5a345b719021f375b20b962e18aa5d17643a32ab8796eff8f2b');
CREATE TABLE "models" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "name" TEXT NOT NULL DEFAULT '',
  "version" INTEGER NOT NULL DEFAULT 0,
  "digest" TEXT NOT NULL DEFAULT '',
  "artifact" TEXT NOT NULL DEFAULT '',
  "stage" TEXT NOT NULL DEFAULT 'none',
  "task" TEXT NOT NULL DEFAULT '',
  "framework" TEXT NOT NULL DEFAULT '',
  "run" TEXT NOT NULL DEFAULT '',
  "metrics" TEXT NOT NULL DEFAULT '{}',
  "created" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT '',
  "description" TEXT NOT NULL DEFAULT '',
  "tags" TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO "models" VALUES(1,'churn@1','churn',1,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','staging','','','','{"auc":0.9}',0.0,'','','{}');
CREATE TABLE points (
  number INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
  first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, last_time REAL, last_value REAL,
  packing INTEGER NOT NULL, data BLOB NOT NULL
);
INSERT INTO "points" VALUES(1,'run:01RUN','loss',3,0,2,3.0,0.125,1,X'000000000000F03F00000000000000400000000000000840000000000000E03F000000000000D03F000000000000C03F');
INSERT INTO "points" VALUES(2,'run:01RUN','odd',3,0,6,1.0,3.0,2,X'000000000000000005000000000000000600000000000000000000000000F03F00000000000000400000000000000840');
CREATE TABLE "rollouts" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "id" TEXT NOT NULL DEFAULT '',
  "service" TEXT NOT NULL DEFAULT '',
  "strategy" TEXT NOT NULL DEFAULT '',
  "status" TEXT NOT NULL DEFAULT 'running',
  "model" TEXT NOT NULL DEFAULT '',
  "before" INTEGER NOT NULL DEFAULT 0,
  "after" INTEGER NOT NULL DEFAULT 0,
  "phases" TEXT NOT NULL DEFAULT '{}',
  "started" REAL NOT NULL DEFAULT 0.0,
  "ended" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT '',
  "reason" TEXT NOT NULL DEFAULT ''
);
INSERT INTO "rollouts" VALUES(1,'01ROLL','01ROLL','churn','replace','running','',0,2,'{"start":{"status":"finished"}}',0.0,0.0,'','');
CREATE TABLE "runs" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "id" TEXT NOT NULL DEFAULT '',
  "name" TEXT NOT NULL DEFAULT '',
  "type" TEXT NOT NULL DEFAULT 'run',
  "status" TEXT NOT NULL DEFAULT 'running',
  "parent" TEXT NOT NULL DEFAULT '',
  "started" REAL NOT NULL DEFAULT 0.0,
  "ended" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT '',
  "host" TEXT NOT NULL DEFAULT '',
  "pid" INTEGER NOT NULL DEFAULT 0,
  "code" TEXT NOT NULL DEFAULT '',
  "environment" TEXT NOT NULL DEFAULT '',
  "cache_key" TEXT NOT NULL DEFAULT '',
  "inputs" TEXT NOT NULL DEFAULT '{}',
  "reads" TEXT NOT NULL DEFAULT '{}',
  "outputs" TEXT NOT NULL DEFAULT '{}',
  "params" TEXT NOT NULL DEFAULT '{}',
  "metrics" TEXT NOT NULL DEFAULT '{}',
  "tags" TEXT NOT NULL DEFAULT '{}',
  "seed" INTEGER NOT NULL DEFAULT 0,
  "log" TEXT NOT NULL DEFAULT '',
  "error" TEXT NOT NULL DEFAULT '',
  "attempts" INTEGER NOT NULL DEFAULT 1,
  "flushed" INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "runs" VALUES(1,'01RUN','01RUN','train','run','running','',3.0,0.0,'','',0,'','','','{}','{}','{}','{"depth":3,"lr":0.1,"on":true,"none":null,"list":[1,"a"]}','{"auc":0.93,"n":12}','{"team":"risk"}',7,'','',2,0);
CREATE TABLE "services" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "name" TEXT NOT NULL DEFAULT '',
  "revision" INTEGER NOT NULL DEFAULT 0,
  "model" TEXT NOT NULL DEFAULT '',
  "digest" TEXT NOT NULL DEFAULT '',
  "target" TEXT NOT NULL DEFAULT 'process',
  "status" TEXT NOT NULL DEFAULT 'starting',
  "url" TEXT NOT NULL DEFAULT '',
  "handle" TEXT NOT NULL DEFAULT '{}',
  "folder" TEXT NOT NULL DEFAULT '',
  "created" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT ''
);
INSERT INTO "services" VALUES(1,'churn@2','churn',2,'churn@1','','process','ready','','{"pid":12,"started":4.25}','',0.0,'');
CREATE TABLE "verdicts" (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  "id" TEXT NOT NULL DEFAULT '',
  "subject" TEXT NOT NULL DEFAULT '',
  "check" TEXT NOT NULL DEFAULT '',
  "status" TEXT NOT NULL DEFAULT '',
  "summary" TEXT NOT NULL DEFAULT '',
  "score" REAL,
  "threshold" REAL,
  "evidence" TEXT NOT NULL DEFAULT '{}',
  "run" TEXT NOT NULL DEFAULT '',
  "created" REAL NOT NULL DEFAULT 0.0,
  "actor" TEXT NOT NULL DEFAULT ''
);
INSERT INTO "verdicts" VALUES(1,'01VERD','01VERD','dataset:tx@3','unique','fail','',NULL,0.5,'{}','',0.0,'');
CREATE INDEX attributes_value ON attributes (name, value);
CREATE INDEX edges_target ON edges (target, relation);
CREATE INDEX points_owner ON points (owner, name);
CREATE INDEX "datasets_name" ON "datasets" ("name");
CREATE INDEX "datasets_digest" ON "datasets" ("digest");
CREATE INDEX "datasets_created" ON "datasets" ("created");
CREATE INDEX "codes_commit" ON "codes" ("commit") WHERE "commit" <> '';
CREATE INDEX "runs_name" ON "runs" ("name");
CREATE INDEX "runs_type" ON "runs" ("type");
CREATE INDEX "runs_status" ON "runs" ("status");
CREATE INDEX "runs_parent" ON "runs" ("parent") WHERE "parent" <> '';
CREATE INDEX "runs_started" ON "runs" ("started");
CREATE INDEX "runs_code" ON "runs" ("code") WHERE "code" <> '';
CREATE INDEX "runs_cache_key" ON "runs" ("cache_key") WHERE "cache_key" <> '';
CREATE INDEX "artifacts_name" ON "artifacts" ("name") WHERE "name" <> '';
CREATE INDEX "artifacts_type" ON "artifacts" ("type") WHERE "type" <> '';
CREATE INDEX "models_name" ON "models" ("name");
CREATE INDEX "models_digest" ON "models" ("digest");
CREATE INDEX "models_stage" ON "models" ("stage");
CREATE INDEX "services_name" ON "services" ("name");
CREATE INDEX "services_model" ON "services" ("model");
CREATE INDEX "services_status" ON "services" ("status");
CREATE INDEX "rollouts_service" ON "rollouts" ("service");
CREATE INDEX "rollouts_status" ON "rollouts" ("status");
CREATE INDEX "verdicts_subject" ON "verdicts" ("subject");
CREATE INDEX "verdicts_check" ON "verdicts" ("check");
CREATE INDEX "verdicts_status" ON "verdicts" ("status");
CREATE INDEX "events_type" ON "events" ("type");
CREATE INDEX "events_subject" ON "events" ("subject") WHERE "subject" <> '';
CREATE VIEW raw_data AS 
SELECT key, name, version, digest, rows, size, source, created, actor, owner FROM datasets WHERE run = '';
CREATE VIEW processed_data AS 
SELECT 'dataset' AS kind, key, name, digest, size, run, created FROM datasets WHERE run <> ''
UNION ALL
SELECT 'artifact', key, name, digest, size, run, created FROM artifacts WHERE type = 'frame';
CREATE VIEW metrics AS 
SELECT r.key AS run, n.name, p.last_step AS step, coalesce(p.last_time, nullif(r.ended, 0), r.started) AS time, a.value
FROM attributes a
JOIN attribute_names n ON n.number = a.name AND n.kind = 'run' AND n.field = 'metrics'
JOIN runs r ON r.number = a.record
LEFT JOIN points p ON p.number = (SELECT max(number) FROM points WHERE owner = 'run:' || r.key AND name = n.name)
UNION ALL
SELECT substr(p.owner, 5), p.name, p.last_step, p.last_time, p.last_value FROM points p
WHERE p.owner LIKE 'run:%'
  AND p.number = (SELECT max(number) FROM points WHERE owner = p.owner AND name = p.name)
  AND NOT EXISTS (
    SELECT 1 FROM runs r JOIN attributes a ON a.record = r.number JOIN attribute_names n ON n.number = a.name
    WHERE r.key = substr(p.owner, 5) AND n.kind = 'run' AND n.field = 'metrics' AND n.name = p.name
  );
CREATE VIEW logs AS 
SELECT coalesce(nullif(ended, 0), started) AS time, 'run' AS kind, 'run:' || key AS subject, name, status,
  error AS message, log FROM runs
UNION ALL
SELECT time, 'event', subject, type, '', reason, '' FROM events
ORDER BY 1;
COMMIT;
PRAGMA user_version = 1;
