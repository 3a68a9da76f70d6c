/* What the files of the registry share: see registry.h. */
#ifndef MAYFLY_HOST_STORE_REGISTRY_INTERNAL_H
#define MAYFLY_HOST_STORE_REGISTRY_INTERNAL_H

#include "code_store_internal.h"
#include "database.h"
#include "registry_attached.h"

enum {
    RUNTIMES_MAX = 32,
    CONTENT_BYTES = 32, /* SHA-256 over code and settings */
    NUMBER_KEPT = -1,   /* of the row with the last good build of $LATEST */
    MAX_ITEMS = 10000,
    DESCRIPTION_MAX = 256, /* characters */
    EVENT_RETRIES_MAX = 2,
    EVENT_AGE_LEAST_S = 60,
};

struct registry {
    struct database *database;
    struct code_store *code;
    uint64_t identity;
    struct registry_cache *cache;     /* owned; NULL: others may change the database, too */
    char *runtimes[RUNTIMES_MAX + 1]; /* owned; NULL-terminated */
    uint64_t (*now_ms)(void);
    runtime_check *check_runtime; /* may be NULL */
    void *opaque;
    char *region; /* owned */
};

/* --- rules (registry_rules.c): pure, any thread; all -EINVAL --- */

enum qualifier_kind { QUALIFIER_LATEST, QUALIFIER_VERSION, QUALIFIER_ALIAS };

/* A hostile text, cleaned and cut for a message. */
struct shown {
    char text[140];
};
struct shown shown(const char *text);

int check_name(const char *what, const char *name, struct error *err);
int check_key(const struct function_key *key, struct error *err); /* tenant and name */
int check_text(const char *what, const char *text, size_t least_characters, size_t max_characters,
               struct error *err);
int check_range(const char *what, int64_t value, int64_t least, int64_t most, struct error *err);

/* check_qualifier - *ret_number: of QUALIFIER_VERSION (VERSION_LATEST for $LATEST). */
int check_qualifier(const char *qualifier, enum qualifier_kind *ret_kind, uint32_t *ret_number,
                    struct error *err);

/* check_version - "$LATEST" or a number, as text. */
int check_version(const char *text, uint32_t *ret_number, struct error *err);

int check_settings(const struct registry *registry, const struct function_settings *settings,
                   bool is_new, struct error *err);
int check_tag(const struct text_pair *tag, struct error *err);

/* page_size - of @max_items (see registry_list()). Returns it, or -EINVAL. */
int page_size(int64_t max_items, struct error *err);

/* check_marker - of listings by qualifier: one of them, or NULL; copied, as it may lie in the page
 * that is about to be filled. */
int check_marker(const char *marker, char ret_after[QUALIFIER_MAX + 1], struct error *err);

/* --- rows (registry_row.c) --- */

struct function_ids {
    int64_t tenant_id, function_id;
};

/* row_find_function - -ENOENT. Also checks the key's tenant and name. */
int row_find_function(struct connection *connection, const struct function_key *key,
                      struct function_ids *ret_ids, struct error *err);

/*
 * row_begin_list - what every listing by qualifier begins with. Returns how many a page holds, and
 * a read that is open (database_end_read()), with @key's function and the marker in @ret_after. Or
 * -EINVAL, -ENOENT, and no read.
 */
int row_begin_list(struct registry *registry, const struct function_key *key, const char *marker,
                   int64_t max_items, struct connection **ret_connection,
                   struct function_ids *ret_ids, char ret_after[QUALIFIER_MAX + 1],
                   struct error *err);

/* row_no_function - the error for one that is not there. -ENOENT. */
int row_no_function(const struct function_key *key, struct error *err);

/* row_check_qualifier - function and qualifier are there; *ret_text: "$LATEST" for none. */
int row_check_qualifier(struct connection *connection, const struct function_key *key,
                        struct function_ids *ret_ids, enum qualifier_kind *ret_kind,
                        const char **ret_text, struct error *err);

/* row_has_version - 1, 0 or -errno. */
int row_has_version(struct connection *connection, int64_t function_id, uint32_t number,
                    struct error *err);

/* What every SELECT of versions begins with; joins t(enants), f(unctions), v(ersions), c(ode). */
#define FUNCTION_COLUMNS                                                                           \
    "t.name, f.name, t.account_id, v.number, v.runtime, v.handler, v.role, v.description,"         \
    " v.dead_letter, v.timeout_s, v.memory_mib, v.tmp_mib, v.environment, v.tracing, c.sha256,"    \
    " c.bytes, v.modified_ms, v.revision, v.state, v.update_status, v.reason, v.build_id,"         \
    " f.reserved, t.concurrency, v.reason_code"

/* row_read_function - from a row of FUNCTION_COLUMNS. -EBADMSG for a damaged one. */
int row_read_function(sqlite3_stmt *row, const char *alias, struct function **ret_function,
                      struct error *err);

/* function_ref - one more function_free() is due. Returns @function. */
struct function *function_ref(struct function *function);

/* row_read_version - one version. -ENOENT. */
int row_read_version(struct connection *connection, int64_t function_id, uint32_t number,
                     struct function **ret_function, struct error *err);

/* row_forget_qualifier - what is attached to a version or alias that goes. */
int row_forget_qualifier(struct connection *connection, int64_t function_id, const char *qualifier,
                         struct error *err);

/* row_next_build - a number that was never used before. */
int row_next_build(struct connection *connection, int64_t *ret_build_id, struct error *err);

/* pairs_encode - sorted, as name, 0, value, 0, …; a name twice is -EINVAL. *ret_blob is owned. */
int pairs_encode(const char *what, const struct text_pair *pairs, size_t n, char **ret_blob,
                 size_t *ret_len_bytes, struct error *err);

/* --- publishing (registry_version.c), within a write --- */

/* version_publish - registry_publish(); the arguments after @ids may be NULL. */
int version_publish(struct registry *registry, struct connection *connection,
                    const struct function_ids *ids, const char *code_sha256,
                    const char *revision_id, const char *description,
                    struct function **ret_function, struct error *err);

/* --- tags (registry_tags.c), within a write --- */
int tags_put(struct connection *connection, int64_t function_id, const struct text_pair *tags,
             size_t n_tags, struct error *err);

#endif
