/*
 * The registry: which tenants have which functions, in which versions, on disk. The daemon's only
 * durable memory but for the queue (event_queue.h), which lives in the same database.
 *
 *   registry_open() → registry_put_tenant()… → registry_create_function() …
 *   registry_find() on every invocation
 *
 * Trust: names, texts and numbers are a client's choice; everything is checked here, so a caller
 * passes on what it was sent. C strings: a caller that has counted bytes refuses embedded zeros.
 * Invariants: a change is on disk when its function returns 0 and undone when it does not; what
 * belongs to another tenant looks exactly like what does not exist.
 * Threads: any, at the same time. Readers have connections of their own, so that an invocation's
 * lookup never waits for another's fsync; writers take turns, as SQLite has them do anyway.
 *
 * Errors, for all of registry*.h, and what Lambda calls them:
 *   -ENOENT  ResourceNotFoundException 404       no such tenant, function, version, alias, …
 *   -EEXIST  ResourceConflictException 409       there already; or still referred to by an alias
 *   -EBUSY   ResourceConflictException 409       its snapshot is being made: State is Pending
 *   -EINVAL  InvalidParameterValueException 400  err->text says which and what is allowed
 *   -E2BIG   RequestTooLargeException 413        of code: more than 50 MB zipped
 *   -EDQUOT  CodeStorageExceededException 400    the tenant's total
 *   -ESTALE  PreconditionFailedException 412     the RevisionId is not the latest
 *   -ENOSPC  ServiceException 500                the disk is full; nothing was changed
 *   others   ServiceException 500                -EIO, -ENOMEM, -EBADMSG (the file is damaged) …
 * err->text is one line, meant for the client where it is a 4xx; it names no path of the host then.
 */
#ifndef MAYFLY_HOST_STORE_REGISTRY_H
#define MAYFLY_HOST_STORE_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "code_store.h"
#include "common/error.h"

enum {
    FUNCTION_NAME_MAX = 64,
    QUALIFIER_MAX = 128,
    REVISION_BYTES = 37,     /* a UUID and its 0 */
    CODE_SHA256_BYTES = 45,  /* base64 and its 0, as CodeSha256 is shown */
    VERSION_TEXT_BYTES = 21, /* "$LATEST" or a number, and its 0 */
    ACCOUNT_ID_BYTES = 13,
    PAGE_MAX = 50,         /* functions or versions a page, as Lambda's */
    MARKER_BYTES = 256,    /* of a listing */
    VERSION_LATEST = 0,    /* the number of $LATEST; published ones count from 1 */
    RESERVED_NONE = -1,    /* no reserved concurrency: the account's is shared */
    UNRESERVED_LEAST = 100 /* concurrency that reservations must leave to the others */
};

struct registry;
struct database;

/* runtime_check - can functions of @runtime, a known one, be run here? 0, or -EINVAL with what the
 * client is to be told. Any thread. */
typedef int runtime_check(void *opaque, const char *runtime, struct error *err);

struct registry_options {
    const char *state;            /* directory: holds mayfly.db and code/; made if missing */
    const char *const *runtimes;  /* NULL-terminated; NULL: those of runtime_images.h */
    runtime_check *check_runtime; /* asked when a function gets its runtime; NULL: all can */
    void *opaque;
    bool is_sole;       /* nobody else changes the database meanwhile: lookups may be remembered */
    const char *region; /* that its functions believe to be in; NULL: us-east-1 */
    uint64_t (*now_ms)(void); /* wall clock, since 1970; NULL: the real one (tests set it) */
};

/*
 * registry_open - open or make the database, bring an older schema up to date (-ENOTSUP for one
 * that is newer than this program). All of @options is copied.
 */
int registry_open(const struct registry_options *options, struct registry **ret_registry,
                  struct error *err);
void registry_close(struct registry *registry);

/* All borrowed from the registry. */
struct database *registry_database(struct registry *registry);
struct code_store *registry_code_store(struct registry *registry);

/* registry_identity - of this database, for ever: tells what was made for it from what others made
 * in stores that are shared. */
uint64_t registry_identity(const struct registry *registry);

/* registry_region - of options. */
const char *registry_region(const struct registry *registry);

/* registry_generation - a number that changes with each change committed through @registry, events
 * of the queue left out: while it stays the same, what was read from it is still so. Costs an
 * atomic load. */
uint64_t registry_generation(const struct registry *registry);

/* registry_backup - a consistent copy of the database in the new file @path (replaced at once, when
 * it is complete and on disk), while everything goes on. Code files are not in it: copy code/. */
int registry_backup(struct registry *registry, const char *path, struct error *err);

/* registry_collect - delete code that no version uses, and what killed processes left behind. */
int registry_collect(struct registry *registry, uint64_t *ret_freed_bytes, struct error *err);

/* --- tenants (registry_tenant.c) --- */

struct tenant {
    char name[FUNCTION_NAME_MAX + 1];  /* [a-zA-Z0-9-_]+ */
    char account_id[ACCOUNT_ID_BYTES]; /* 12 digits, for ARNs; unique */
    uint32_t concurrency;              /* 1000 unless set */
    uint64_t code_limit_bytes;         /* 75 GB unless set */
    /* What it has; not read by registry_put_tenant(). */
    uint32_t unreserved_concurrency;
    uint64_t code_bytes; /* zipped, of all versions */
    uint64_t functions;
};

/* registry_put_tenant - make it or change its settings; 0 as a limit means the default. */
int registry_put_tenant(struct registry *registry, const struct tenant *tenant, struct error *err);
int registry_get_tenant(struct registry *registry, const char *name, struct tenant *ret_tenant,
                        struct error *err);

/* --- what a function is --- */

enum tracing_mode { TRACING_PASS_THROUGH, TRACING_ACTIVE };
enum function_state { FUNCTION_PENDING, FUNCTION_ACTIVE, FUNCTION_FAILED };
enum update_status { UPDATE_SUCCESSFUL, UPDATE_IN_PROGRESS, UPDATE_FAILED };

/* An environment variable or a tag. */
struct text_pair {
    const char *name;
    const char *value;
};

/* Which members of struct function_settings say something; the others are kept as they are, or
 * take Lambda's defaults in a new function. */
enum settings_member {
    SETS_RUNTIME = 1 << 0,
    SETS_HANDLER = 1 << 1,
    SETS_ROLE = 1 << 2,
    SETS_DESCRIPTION = 1 << 3,
    SETS_TIMEOUT = 1 << 4,
    SETS_MEMORY = 1 << 5,
    SETS_TMP = 1 << 6,
    SETS_ENVIRONMENT = 1 << 7,
    SETS_DEAD_LETTER = 1 << 8,
    SETS_TRACING = 1 << 9,
};

/* What a client may set; all borrowed for the call. A NULL text with its bit set means "". */
struct function_settings {
    uint32_t members;        /* of enum settings_member */
    const char *runtime;     /* required in a new function */
    const char *handler;     /* required in a new function; 1..128, no white space */
    const char *role;        /* "" or arn:aws…:iam::<12 digits>:role/…; shown only */
    const char *description; /* ≤ 256 characters */
    int64_t timeout_s;       /* 1..900; 3 */
    int64_t memory_mib;      /* 128..10240; 128 */
    int64_t tmp_mib;         /* EphemeralStorage.Size: 512..10240; 512 */
    const struct text_pair *environment; /* names [a-zA-Z][a-zA-Z0-9_]+, not Lambda's own;
                                            names and values together ≤ 4096 bytes, UTF-8 */
    size_t n_environment;
    const char *dead_letter; /* "" or a target: see registry_attached.h */
    int tracing;             /* enum tracing_mode */
};

/* Which one is meant; borrowed. */
struct function_key {
    const char *tenant;
    const char *name;      /* [a-zA-Z0-9-_]{1,64}: the API takes ARNs apart */
    const char *qualifier; /* NULL, "" or "$LATEST"; a version's number; an alias */
};

/* One version of a function, as read: immutable, in one block with all that it points to. */
struct function {
    const char *tenant, *name;
    char account_id[ACCOUNT_ID_BYTES];
    uint32_t version;                      /* VERSION_LATEST or its number */
    char version_text[VERSION_TEXT_BYTES]; /* "$LATEST" or the number */
    const char *alias;                     /* through which it was found, else NULL */
    const char *runtime, *handler, *role, *description, *dead_letter;
    uint32_t timeout_s, memory_mib, tmp_mib;
    const struct text_pair *environment;
    size_t n_environment;
    enum tracing_mode tracing;
    char code_sha256[CODE_SHA256_BYTES];
    uint64_t code_bytes; /* zipped: CodeSize */
    uint64_t modified_ms;
    char revision_id[REVISION_BYTES];
    enum function_state state;
    enum update_status update_status;
    const char *reason;      /* why it (or its update) failed or has to wait, else "" */
    const char *reason_code; /* Lambda's word for it, or "" */
    /* Names this code with these settings for ever: changes when either does, never comes again.
     * What instances and snapshots are kept by. */
    uint64_t build_id;
    int32_t reserved_concurrency; /* or RESERVED_NONE */
    uint32_t account_concurrency;
};

/* Counted, since it is immutable: many may hold the same. Takes NULL. Any thread. */
void function_free(struct function *function);

/* --- making and changing (registry_function.c, registry_version.c) --- */

/*
 * registry_create_function - a new function, State Pending: its snapshot is to be made, then
 * registry_finish_build(). @tags: may be NULL. @code: from code_store_stage(); it becomes visible
 * with the function or not at all; remains the caller's to free. After an error it may be used up:
 * stage it again.
 * *ret_function may be NULL, here and below. It is owned: function_free().
 */
int registry_create_function(struct registry *registry, const struct function_key *key,
                             const struct function_settings *settings, struct code_staged *code,
                             const struct text_pair *tags, size_t n_tags,
                             struct function **ret_function, struct error *err);

/* registry_create_published - that and registry_publish(), both or neither: *ret_version is the
 * version. registry_update_published - likewise of registry_update_code(). */
int registry_create_published(struct registry *registry, const struct function_key *key,
                              const struct function_settings *settings, struct code_staged *code,
                              const struct text_pair *tags, size_t n_tags,
                              struct function **ret_version, struct error *err);
int registry_update_published(struct registry *registry, const struct function_key *key,
                              struct code_staged *code, const char *revision_id,
                              struct function **ret_version, struct error *err);

/*
 * registry_update_code, registry_update_settings - change $LATEST; LastUpdateStatus is InProgress
 * until registry_finish_build(). @revision_id: "only if this is still the latest", or NULL.
 * -EBUSY while an earlier change is in progress. A change that changes nothing is Successful at
 * once and keeps the build_id. registry_check_update - would it be refused? (DryRun)
 */
int registry_update_code(struct registry *registry, const struct function_key *key,
                         struct code_staged *code, const char *revision_id,
                         struct function **ret_function, struct error *err);
int registry_update_settings(struct registry *registry, const struct function_key *key,
                             const struct function_settings *settings, const char *revision_id,
                             struct function **ret_function, struct error *err);
int registry_check_update(struct registry *registry, const struct function_key *key,
                          const char *revision_id, struct error *err);

/* --- builds (registry_build.c) --- */

/* Why a build failed, for the client: it names nothing of the host's. */
struct build_failure {
    const char *code;   /* Lambda's StateReasonCode: FunctionError, InvalidRuntime, … */
    const char *reason; /* cut at 1024 bytes, made printable */
};

/*
 * registry_finish_build - the snapshot of @build_id was made (@failure NULL) or will not be: its
 * version becomes Active, or Failed for @failure's reason. Of an update only its status: what
 * served before goes on (registry_find_served()).
 * -ESTALE if it is no longer anybody's: deleted, or changed since. Then forget the snapshot.
 */
int registry_finish_build(struct registry *registry, uint64_t build_id,
                          const struct build_failure *failure, struct error *err);

/* registry_put_off_build - it could not be made now and may be tried again in @delay_ms; @reason
 * for the client. -ESTALE as above. */
int registry_put_off_build(struct registry *registry, uint64_t build_id, uint64_t delay_ms,
                           const char *reason, struct error *err);

/* A build that waits for registry_finish_build(). */
struct pending_build {
    uint64_t build_id;
    int64_t tenant_id; /* the database's; 0: none */
    uint32_t tries;    /* that were put off */
};

enum { PENDING_BUSY_MAX = 16 };

/*
 * registry_next_pending - what to build next, also after a restart: tenants take turns, beginning
 * with the one after @after_tenant; a tenant's own come in their order. One of a tenant that has
 * none in @busy (@n_busy ≤ PENDING_BUSY_MAX: those under way) if there is any. Puts off what is put
 * off. Returns 1 with *ret_build; 0 if nothing is due, then *ret_waits: something will be.
 */
int registry_next_pending(struct registry *registry, int64_t after_tenant,
                          const struct pending_build *busy, size_t n_busy,
                          struct pending_build *ret_build, bool *ret_waits, struct error *err);

/* registry_find_build - the version that has @build_id. -ENOENT: deleted or replaced. */
int registry_find_build(struct registry *registry, uint64_t build_id,
                        struct function **ret_function, struct error *err);

/* registry_list_builds - what is in use: builds of all versions and the last good ones of $LATEST,
 * ascending, after @after (0: from the start). For who collects snapshots. *ret_n < @max: the end.
 */
int registry_list_builds(struct registry *registry, uint64_t after, uint64_t *ret_build_ids,
                         size_t max, size_t *ret_n, struct error *err);

/* --- versions (registry_version.c) --- */

/*
 * registry_publish - $LATEST as a new immutable version, in State Pending with a build_id of its
 * own; where nothing changed since the last one was published, that one. Numbers are never used
 * again, not even after the function was deleted. Of a $LATEST that is being built, too; -EBUSY if
 * that, or its update, has Failed.
 * @code_sha256, @revision_id: refuse another $LATEST than this (-EINVAL, -ESTALE), or NULL.
 * @description: NULL keeps that of $LATEST.
 */
int registry_publish(struct registry *registry, const struct function_key *key,
                     const char *code_sha256, const char *revision_id, const char *description,
                     struct function **ret_function, struct error *err);

/*
 * registry_delete - the function with all its versions, aliases, settings and waiting events
 * (no qualifier), or one published version (its number). -EINVAL for $LATEST or an alias; -EEXIST
 * for a version that an alias points to.
 */
int registry_delete(struct registry *registry, const struct function_key *key, struct error *err);

/* --- reading (registry_lookup.c) --- */

/*
 * registry_find - the version that @key means. @roll: from 0 up to, not including, 1: where an
 * alias splits its events between two versions, which share this falls into (0 ≤ roll < weight:
 * the additional version); negative: always the alias's own version. O(log n).
 */
int registry_find(struct registry *registry, const struct function_key *key, double roll,
                  struct function **ret_function, struct error *err);

/* registry_find_served - as registry_find(), but of a $LATEST whose update is not (or never will
 * be) built, what it was before: what invocations use. */
int registry_find_served(struct registry *registry, const struct function_key *key, double roll,
                         struct function **ret_function, struct error *err);

/* What a listing returns; function_page_done() frees the functions. */
struct function_page {
    struct function *functions[PAGE_MAX];
    size_t n;
    char next_marker[MARKER_BYTES]; /* "" at the end; opaque to clients, printable ASCII */
};

/*
 * registry_list - functions of a tenant by name ($LATEST, or with @all_versions each version).
 * registry_list_versions - those of one function: $LATEST, then 1, 2, …
 * @marker: next_marker of the page before, or NULL; -EINVAL if it cannot be one.
 * @max_items: 1..10000 (more than PAGE_MAX gives PAGE_MAX); 0: PAGE_MAX.
 */
int registry_list(struct registry *registry, const char *tenant, bool all_versions,
                  const char *marker, int64_t max_items, struct function_page *ret_page,
                  struct error *err);
int registry_list_versions(struct registry *registry, const struct function_key *key,
                           const char *marker, int64_t max_items, struct function_page *ret_page,
                           struct error *err);
void function_page_done(struct function_page *page);

#endif
