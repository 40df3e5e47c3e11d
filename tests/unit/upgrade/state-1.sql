-- A state database as version 0.1.0 (schema 1) left it. Never edit: it stands for what is out there.
BEGIN TRANSACTION;
CREATE TABLE account (
        name TEXT NOT NULL PRIMARY KEY,
        next_poll DOUBLE PRECISION NOT NULL,
        set_at DOUBLE PRECISION NOT NULL,
        queued_until DOUBLE PRECISION NOT NULL,
        queued_at DOUBLE PRECISION NOT NULL,
        failures INTEGER NOT NULL,
        last_ok DOUBLE PRECISION,
        last_error TEXT
    ) WITHOUT ROWID;
INSERT INTO "account" VALUES('info',1795381200.0,1795377600.0,0.0,0.0,1,NULL,'-ERR [AUTH] no');
INSERT INTO "account" VALUES('sales',1795377900.0,1795377600.0,0.0,0.0,0,1795377600.0,NULL);
CREATE TABLE delivered (
        id TEXT NOT NULL,
        destination TEXT NOT NULL,
        recipient TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        receipt TEXT NOT NULL,
        PRIMARY KEY (id, destination, recipient)
    ) WITHOUT ROWID;
INSERT INTO "delivered" VALUES('id-1','default','sales@corp.example',1795377600.0,'250 2.0.0 ok');
CREATE TABLE lease (
        name TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        renewed DOUBLE PRECISION NOT NULL,
        expires DOUBLE PRECISION NOT NULL,
        taken INTEGER NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE message (
        id TEXT NOT NULL PRIMARY KEY,
        account TEXT NOT NULL,
        first_seen DOUBLE PRECISION NOT NULL
    ) WITHOUT ROWID;
INSERT INTO "message" VALUES('id-1','sales',1795377600.0);
INSERT INTO "message" VALUES('id-2','sales',1795377600.0);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE uidl (
        account TEXT NOT NULL,
        uidl TEXT NOT NULL,
        id TEXT NOT NULL,
        first_seen DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (account, uidl)
    ) WITHOUT ROWID;
INSERT INTO "uidl" VALUES('sales','UID-1','id-1',1795377600.0);
INSERT INTO "uidl" VALUES('sales','UID-\x002','id-2',1795377600.0);
CREATE INDEX uidl_id ON uidl (id);
CREATE INDEX message_first_seen ON message (first_seen, id);
CREATE INDEX account_next_poll ON account (next_poll);
CREATE INDEX account_set_at ON account (set_at);
CREATE INDEX delivered_at ON delivered (at)
    ;
COMMIT;
