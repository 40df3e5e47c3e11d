-- A queue file as version 0.1.0 (schema 1) left it. Never edit: it stands for what is out there.
PRAGMA application_id = 1347375155;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE delayed (
            queue INTEGER NOT NULL,
            due REAL NOT NULL,
            id INTEGER NOT NULL,
            PRIMARY KEY (queue, due, id)
        ) WITHOUT ROWID;
INSERT INTO "delayed" VALUES(5,1795377900.0,2);
CREATE TABLE lease (
            owner INTEGER NOT NULL,
            id INTEGER NOT NULL,
            queue INTEGER NOT NULL,
            handouts INTEGER NOT NULL,
            PRIMARY KEY (owner, id)
        ) WITHOUT ROWID;
CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            message_id TEXT NOT NULL,
            headers TEXT NOT NULL,
            body BLOB NOT NULL
        );
INSERT INTO "message" VALUES(1,'m-1','{"account": "sales"}',X'77616974696E6720626F6479');
INSERT INTO "message" VALUES(2,'m-2','{"account": "sales", "reason": "451"}',X'64656C6179656420626F6479');
INSERT INTO "message" VALUES(3,'m-3','{"account": "sales", "reason": "550"}',X'6661696C656420626F6479');
CREATE TABLE owner (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            renewed REAL NOT NULL
        );
CREATE TABLE queue (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            ttl REAL,
            back_to TEXT
        );
INSERT INTO "queue" VALUES(1,'poll','work',NULL,NULL);
INSERT INTO "queue" VALUES(2,'incoming','work',NULL,NULL);
INSERT INTO "queue" VALUES(3,'parsed','work',NULL,NULL);
INSERT INTO "queue" VALUES(4,'pickup','work',NULL,NULL);
INSERT INTO "queue" VALUES(5,'incoming.retry.5m','retry',300.0,'incoming');
INSERT INTO "queue" VALUES(6,'parsed.retry.5m','retry',300.0,'parsed');
INSERT INTO "queue" VALUES(7,'pickup.retry.5m','retry',300.0,'pickup');
INSERT INTO "queue" VALUES(8,'incoming.failed','failed',NULL,'incoming');
INSERT INTO "queue" VALUES(9,'parsed.failed','failed',NULL,'parsed');
INSERT INTO "queue" VALUES(10,'pickup.failed','failed',NULL,'pickup');
INSERT INTO "queue" VALUES(11,'quarantine','quarantine',NULL,NULL);
CREATE TABLE waiting (
            queue INTEGER NOT NULL,
            id INTEGER NOT NULL,
            handouts INTEGER NOT NULL,
            PRIMARY KEY (queue, id)
        ) WITHOUT ROWID;
INSERT INTO "waiting" VALUES(2,1,0);
INSERT INTO "waiting" VALUES(8,3,0);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('owner',1);
COMMIT;
