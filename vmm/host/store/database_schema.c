/*
 * The tables, and how each version of them becomes the next. Never change a step that was released:
 * add one. Process: the daemon's, at its start.
 */
#include <errno.h>

#include "common/bytes.h"
#include "database_internal.h"

enum { APPLICATION_ID = 0x4d617966 }; /* "Mayf", in the header of the file: others are refused */

/* clang-format off */
static const char version_1[] =
    /* reserved, code_bytes, functions, events, event_bytes: sums, kept by the triggers below, so
     * that no limit costs a walk over what it limits. */
    "CREATE TABLE tenants ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL UNIQUE,"
    "  account_id TEXT NOT NULL UNIQUE,"
    "  concurrency INTEGER NOT NULL,"
    "  code_limit INTEGER NOT NULL,"
    "  reserved INTEGER NOT NULL DEFAULT 0,"
    "  code_bytes INTEGER NOT NULL DEFAULT 0,"
    "  functions INTEGER NOT NULL DEFAULT 0,"
    "  events INTEGER NOT NULL DEFAULT 0,"
    "  event_bytes INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE TABLE functions ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  tenant_id INTEGER NOT NULL REFERENCES tenants,"
    "  name TEXT NOT NULL,"
    "  next_version INTEGER NOT NULL,"
    "  reserved INTEGER NOT NULL DEFAULT -1,"
    "  UNIQUE (tenant_id, name)) STRICT;"
    /* Version numbers of deleted functions: they go on where they stopped. */
    "CREATE TABLE retired ("
    "  tenant_id INTEGER NOT NULL REFERENCES tenants,"
    "  name TEXT NOT NULL,"
    "  next_version INTEGER NOT NULL,"
    "  PRIMARY KEY (tenant_id, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE code ("
    "  id INTEGER PRIMARY KEY,"
    "  sha256 TEXT NOT NULL UNIQUE," /* base64 */
    "  bytes INTEGER NOT NULL,"
    "  uses INTEGER NOT NULL DEFAULT 0) STRICT;" /* rows of versions: a trigger keeps it */
    "CREATE INDEX code_unused ON code (id) WHERE uses = 0;"
    /* number 0 is $LATEST. environment: name, 0, value, 0, …; content: hash of code and settings. */
    "CREATE TABLE versions ("
    "  id INTEGER PRIMARY KEY,"
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  number INTEGER NOT NULL,"
    "  tenant_id INTEGER NOT NULL,"
    "  code_id INTEGER NOT NULL REFERENCES code,"
    "  build_id INTEGER NOT NULL UNIQUE,"
    "  content BLOB NOT NULL,"
    "  revision TEXT NOT NULL,"
    "  modified_ms INTEGER NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  update_status INTEGER NOT NULL,"
    "  reason TEXT NOT NULL DEFAULT '',"
    "  runtime TEXT NOT NULL,"
    "  handler TEXT NOT NULL,"
    "  role TEXT NOT NULL,"
    "  description TEXT NOT NULL,"
    "  dead_letter TEXT NOT NULL,"
    "  timeout_s INTEGER NOT NULL,"
    "  memory_mib INTEGER NOT NULL,"
    "  tmp_mib INTEGER NOT NULL,"
    "  tracing INTEGER NOT NULL,"
    "  environment BLOB NOT NULL,"
    "  UNIQUE (function_id, number)) STRICT;"
    "CREATE INDEX versions_code ON versions (code_id);"
    "CREATE INDEX versions_unbuilt ON versions (build_id) WHERE state = 0 OR update_status = 1;"
    "CREATE TABLE aliases ("
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  name TEXT NOT NULL,"
    "  description TEXT NOT NULL,"
    "  version INTEGER NOT NULL,"
    "  additional_version INTEGER," /* NULL: none */
    "  additional_weight REAL NOT NULL,"
    "  revision TEXT NOT NULL,"
    "  PRIMARY KEY (function_id, name),"
    /* Deferred: deleting the function takes both away in either order. */
    "  FOREIGN KEY (function_id, version) REFERENCES versions (function_id, number)"
    "    DEFERRABLE INITIALLY DEFERRED,"
    "  FOREIGN KEY (function_id, additional_version) REFERENCES versions (function_id, number)"
    "    DEFERRABLE INITIALLY DEFERRED) STRICT;"
    "CREATE INDEX aliases_version ON aliases (function_id, version);"
    "CREATE INDEX aliases_additional ON aliases (function_id, additional_version);"
    /* In these three, qualifier is '$LATEST' (of urls: ''), a number or an alias. */
    "CREATE TABLE provisioned ("
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  qualifier TEXT NOT NULL,"
    "  requested INTEGER NOT NULL,"
    "  modified_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (function_id, qualifier)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE urls ("
    "  id TEXT NOT NULL UNIQUE,"
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  qualifier TEXT NOT NULL,"
    "  auth INTEGER NOT NULL,"
    "  mode INTEGER NOT NULL,"
    "  cors TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  modified_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (function_id, qualifier)) STRICT;"
    "CREATE TABLE event_configs ("
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  qualifier TEXT NOT NULL,"
    "  retries INTEGER NOT NULL,"
    "  max_age_s INTEGER NOT NULL,"
    "  on_success TEXT NOT NULL,"
    "  on_failure TEXT NOT NULL,"
    "  modified_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (function_id, qualifier)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE tags ("
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  name TEXT NOT NULL,"
    "  value TEXT NOT NULL,"
    "  PRIMARY KEY (function_id, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "INSERT INTO counters VALUES ('build', 0);"
    /* due_ms: when it may be claimed (again); of a claimed one, when its lease ends.
     * The payload apart: a claim would copy a megabyte otherwise. */
    "CREATE TABLE events ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  tenant_id INTEGER NOT NULL,"
    "  qualifier TEXT NOT NULL,"
    "  request_id TEXT NOT NULL UNIQUE,"
    "  accepted_ms INTEGER NOT NULL,"
    "  due_ms INTEGER NOT NULL,"
    "  lease INTEGER NOT NULL DEFAULT 0," /* the claimer's ticket; 0: not claimed */
    "  failures INTEGER NOT NULL DEFAULT 0,"
    "  throttles INTEGER NOT NULL DEFAULT 0,"
    "  claims INTEGER NOT NULL DEFAULT 0,"
    "  hops INTEGER NOT NULL,"
    "  client_context TEXT,"
    "  trace TEXT,"
    "  bytes INTEGER NOT NULL) STRICT;"
    "CREATE INDEX events_due ON events (function_id, due_ms);"
    "CREATE INDEX events_soonest ON events (due_ms);"
    "CREATE INDEX events_leased ON events (id) WHERE lease <> 0;"
    "CREATE TABLE payloads ("
    "  event_id INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE,"
    "  payload BLOB NOT NULL) STRICT;"
    "CREATE TABLE deliveries ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  tenant_id INTEGER NOT NULL REFERENCES tenants,"
    "  kind INTEGER NOT NULL,"
    "  target TEXT NOT NULL,"
    "  request_id TEXT NOT NULL,"
    "  error_code TEXT NOT NULL,"
    "  error_message TEXT NOT NULL,"
    "  due_ms INTEGER NOT NULL,"
    "  lease INTEGER NOT NULL DEFAULT 0,"
    "  attempts INTEGER NOT NULL DEFAULT 0,"
    "  bytes INTEGER NOT NULL) STRICT;"
    "CREATE INDEX deliveries_due ON deliveries (due_ms);"
    "CREATE TABLE delivery_bodies ("
    "  delivery_id INTEGER PRIMARY KEY REFERENCES deliveries ON DELETE CASCADE,"
    "  body BLOB NOT NULL) STRICT;"
    /* Sums. */
    "CREATE TRIGGER functions_in AFTER INSERT ON functions BEGIN"
    "  UPDATE tenants SET functions = functions + 1, reserved = reserved + max(new.reserved, 0)"
    "    WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER functions_out AFTER DELETE ON functions BEGIN"
    "  UPDATE tenants SET functions = functions - 1, reserved = reserved - max(old.reserved, 0)"
    "    WHERE id = old.tenant_id; END;"
    "CREATE TRIGGER functions_reserve AFTER UPDATE OF reserved ON functions BEGIN"
    "  UPDATE tenants SET reserved = reserved - max(old.reserved, 0) + max(new.reserved, 0)"
    "    WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER versions_in AFTER INSERT ON versions BEGIN"
    "  UPDATE code SET uses = uses + 1 WHERE id = new.code_id;"
    "  UPDATE tenants SET code_bytes = code_bytes + (SELECT bytes FROM code WHERE id = new.code_id)"
    "    WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER versions_out AFTER DELETE ON versions BEGIN"
    "  UPDATE code SET uses = uses - 1 WHERE id = old.code_id;"
    "  UPDATE tenants SET code_bytes = code_bytes - (SELECT bytes FROM code WHERE id = old.code_id)"
    "    WHERE id = old.tenant_id; END;"
    "CREATE TRIGGER versions_recode AFTER UPDATE OF code_id ON versions BEGIN"
    "  UPDATE code SET uses = uses - 1 WHERE id = old.code_id;"
    "  UPDATE code SET uses = uses + 1 WHERE id = new.code_id;"
    "  UPDATE tenants SET code_bytes = code_bytes"
    "      - (SELECT bytes FROM code WHERE id = old.code_id)"
    "      + (SELECT bytes FROM code WHERE id = new.code_id)"
    "    WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER events_in AFTER INSERT ON events BEGIN"
    "  UPDATE tenants SET events = events + 1, event_bytes = event_bytes + new.bytes"
    "    WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER events_out AFTER DELETE ON events BEGIN"
    "  UPDATE tenants SET events = events - 1, event_bytes = event_bytes - old.bytes"
    "    WHERE id = old.tenant_id; END;"
    "CREATE TRIGGER deliveries_in AFTER INSERT ON deliveries BEGIN"
    "  UPDATE tenants SET event_bytes = event_bytes + new.bytes WHERE id = new.tenant_id; END;"
    "CREATE TRIGGER deliveries_out AFTER DELETE ON deliveries BEGIN"
    "  UPDATE tenants SET event_bytes = event_bytes - old.bytes WHERE id = old.tenant_id; END;";
static const char version_2[] =
    /* reason_code: of what reason says; build_tries: attempts that failed for the host's reasons;
     * build_due_ms: when the next one may begin. */
    "ALTER TABLE versions ADD COLUMN reason_code TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE versions ADD COLUMN build_tries INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE versions ADD COLUMN build_due_ms INTEGER NOT NULL DEFAULT 0;"
    "DROP INDEX versions_unbuilt;"
    "CREATE INDEX versions_unbuilt ON versions (tenant_id, build_due_ms, build_id)"
    "  WHERE state = 0 OR update_status = 1;"
    /* number -1 is the last good build of $LATEST, kept while (and if) a newer one is not. It is no
     * version of the tenant's, so it does not count as such. */
    "DROP TRIGGER versions_in;"
    "DROP TRIGGER versions_out;"
    "CREATE TRIGGER versions_in AFTER INSERT ON versions BEGIN"
    "  UPDATE code SET uses = uses + 1 WHERE id = new.code_id;"
    "  UPDATE tenants SET code_bytes = code_bytes + (SELECT bytes FROM code WHERE id = new.code_id)"
    "    WHERE id = new.tenant_id AND new.number >= 0; END;"
    "CREATE TRIGGER versions_out AFTER DELETE ON versions BEGIN"
    "  UPDATE code SET uses = uses - 1 WHERE id = old.code_id;"
    "  UPDATE tenants SET code_bytes = code_bytes - (SELECT bytes FROM code WHERE id = old.code_id)"
    "    WHERE id = old.tenant_id AND old.number >= 0; END;"
    "CREATE TRIGGER versions_aside AFTER UPDATE OF number ON versions"
    "  WHEN old.number >= 0 AND new.number < 0 BEGIN"
    "  UPDATE tenants SET code_bytes = code_bytes - (SELECT bytes FROM code WHERE id = new.code_id)"
    "    WHERE id = new.tenant_id; END;";

static const char version_3[] =
    /* Deliveries go out by tenant in turn. */
    "CREATE INDEX deliveries_turn ON deliveries (tenant_id, due_ms);"
    "ALTER TABLE events ADD COLUMN traceparent TEXT;"; /* W3C */

static const char version_4[] =
    /* Resource policies; qualifier as above. statements: a JSON list. */
    "CREATE TABLE policies ("
    "  function_id INTEGER NOT NULL REFERENCES functions ON DELETE CASCADE,"
    "  qualifier TEXT NOT NULL,"
    "  revision TEXT NOT NULL,"
    "  statements TEXT NOT NULL,"
    "  PRIMARY KEY (function_id, qualifier)) STRICT;";
/* clang-format on */

/* The step at i brings version i to version i + 1. */
static const char *const steps[] = {version_1, version_2, version_3, version_4};

static int read_number(sqlite3 *handle, const char *pragma, int *ret_value)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(handle, pragma, -1, &statement, NULL);

    if (code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        *ret_value = sqlite3_column_int(statement, 0);
        code = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    return code;
}

static int take_steps(sqlite3 *handle, int from, struct error *err)
{
    char stamp[96];
    int code = SQLITE_OK;

    for (size_t i = (size_t)from; code == SQLITE_OK && i < ARRAY_LEN(steps); i++)
        code = sqlite3_exec(handle, steps[i], NULL, NULL, NULL);
    sqlite3_snprintf(sizeof(stamp), stamp, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                     APPLICATION_ID, (int)ARRAY_LEN(steps));
    if (code == SQLITE_OK)
        code = sqlite3_exec(handle, stamp, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : database_error(handle, code, "make the tables", err);
}

/* In a transaction: two processes may start at once. */
static int bring_up(sqlite3 *handle, struct error *err)
{
    int version = 0, application = 0, tables = 0;
    int code = read_number(handle, "PRAGMA user_version", &version);

    if (code == SQLITE_OK)
        code = read_number(handle, "PRAGMA application_id", &application);
    if (code == SQLITE_OK)
        code = read_number(handle, "SELECT count(*) FROM sqlite_schema", &tables);
    if (code != SQLITE_OK)
        return database_error(handle, code, "read the database's version", err);
    if ((tables > 0 || version != 0) && application != APPLICATION_ID)
        return error_say(err, EBADMSG, "this is a database, but not Mayfly's");
    if (version < 0 || version > (int)ARRAY_LEN(steps))
        return error_say(err, ENOTSUP,
                         "the database is of version %d, this program knows up to %d: update it",
                         version, (int)ARRAY_LEN(steps));
    return version < (int)ARRAY_LEN(steps) ? take_steps(handle, version, err) : 0;
}

int schema_bring_up(sqlite3 *handle, struct error *err)
{
    int code = sqlite3_exec(handle, "BEGIN IMMEDIATE", NULL, NULL, NULL);

    if (code != SQLITE_OK)
        return database_error(handle, code, "lock the database", err);
    int r = bring_up(handle, err);
    if (r == 0) {
        code = sqlite3_exec(handle, "COMMIT", NULL, NULL, NULL);
        r = code == SQLITE_OK ? 0 : database_error(handle, code, "commit the tables", err);
    }
    if (r < 0 && !sqlite3_get_autocommit(handle))
        sqlite3_exec(handle, "ROLLBACK", NULL, NULL, NULL);
    return r;
}
