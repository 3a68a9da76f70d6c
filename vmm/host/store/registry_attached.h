/*
 * What is attached to a function: aliases, concurrency, URLs, the policy of asynchronous events,
 * tags. Part of the registry: its rules on trust, threads and errors (registry.h) hold here.
 * Everything here goes with the function; what is attached to an alias or version, with that.
 * In a key, the qualifier says what it is attached to. Pages are large (the URLs' 400 KiB): not for
 * a stack; after an error what is in one is undefined. Their markers are names: printable ASCII.
 *
 * A target (destination, dead-letter queue) is one of
 *   arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]   of the same tenant
 *   file:<name>, http://… or https://…: see delivery_target.h
 */
#ifndef MAYFLY_HOST_STORE_REGISTRY_ATTACHED_H
#define MAYFLY_HOST_STORE_REGISTRY_ATTACHED_H

#include "registry.h"

enum {
    DESCRIPTION_BYTES = 1025, /* 256 characters of UTF-8 and a 0 */
    TARGET_BYTES = 513,
    TAGS_MAX = 50,
    URL_ID_BYTES = 33,
    CORS_BYTES = 8192,
    EVENT_RETRIES_DEFAULT = 2,
    EVENT_AGE_DEFAULT_S = 21600,
};

/* target_check - is it one? -EINVAL. */
int target_check(const char *target, struct error *err);

/* --- aliases (registry_alias.c) --- */

struct alias {
    char name[QUALIFIER_MAX + 1]; /* [a-zA-Z0-9-_]+, not all digits */
    char description[DESCRIPTION_BYTES];
    uint32_t version;            /* VERSION_LATEST or a number */
    uint32_t additional_version; /* 0: none. Neither it nor version may be $LATEST then */
    double additional_weight;    /* of it: 0.0..1.0 */
    char revision_id[REVISION_BYTES];
};

/* What an update changes; NULL or false: keep. Versions as text, since clients send it so. */
struct alias_change {
    const char *version; /* "$LATEST" or a number; required in a new alias */
    const char *description;
    bool sets_routing; /* additional_version NULL: no more */
    const char *additional_version;
    double additional_weight;
};

/* The key's qualifier is the alias's name. */
int registry_create_alias(struct registry *registry, const struct function_key *key,
                          const struct alias_change *alias, struct alias *ret_alias,
                          struct error *err);
int registry_update_alias(struct registry *registry, const struct function_key *key,
                          const struct alias_change *alias, const char *revision_id,
                          struct alias *ret_alias, struct error *err);
int registry_get_alias(struct registry *registry, const struct function_key *key,
                       struct alias *ret_alias, struct error *err);
/* registry_delete_alias - succeeds also where there is none, as Lambda's; not without function. */
int registry_delete_alias(struct registry *registry, const struct function_key *key,
                          struct error *err);

struct alias_page {
    struct alias aliases[PAGE_MAX];
    size_t n;
    char next_marker[MARKER_BYTES];
};

/* registry_list_aliases - by name; @version: only those that name it ("$LATEST", "3"), or NULL. */
int registry_list_aliases(struct registry *registry, const struct function_key *key,
                          const char *version, const char *marker, int64_t max_items,
                          struct alias_page *ret_page, struct error *err);

/* --- concurrency (registry_concurrency.c) --- */

/*
 * registry_set_reserved - 0 (it never runs) or more, or RESERVED_NONE to delete. -EINVAL if that
 * leaves less than UNRESERVED_LEAST of the account's to functions without a reservation, or less
 * than the function's provisioned concurrency. The present value is in struct function.
 */
int registry_set_reserved(struct registry *registry, const struct function_key *key,
                          int64_t concurrency, struct error *err);

struct provisioned {
    char function[FUNCTION_NAME_MAX + 1];
    char qualifier[QUALIFIER_MAX + 1]; /* a version's number or an alias */
    uint32_t requested;                /* ≥ 1 */
    uint64_t modified_ms;
};

/* How many of them are ready is the pool's to know. -EINVAL for $LATEST, as Lambda. */
int registry_put_provisioned(struct registry *registry, const struct function_key *key,
                             int64_t requested, struct provisioned *ret, struct error *err);
int registry_get_provisioned(struct registry *registry, const struct function_key *key,
                             struct provisioned *ret, struct error *err);
int registry_delete_provisioned(struct registry *registry, const struct function_key *key,
                                struct error *err);

struct provisioned_page {
    struct provisioned items[PAGE_MAX];
    size_t n;
    char next_marker[MARKER_BYTES];
};

/* registry_list_provisioned - of one function, by qualifier. */
int registry_list_provisioned(struct registry *registry, const struct function_key *key,
                              const char *marker, int64_t max_items,
                              struct provisioned_page *ret_page, struct error *err);

/* registry_each_provisioned - of all tenants: what the pool holds ready. @found is called in one
 * read of the registry (it must not call back into it); what it returns but 0 ends the walk. */
typedef int provisioned_found(void *opaque, const char *tenant, const struct provisioned *item);
int registry_each_provisioned(struct registry *registry, provisioned_found *found, void *opaque,
                              struct error *err);

/* --- function URLs (registry_url.c) --- */

enum url_auth { URL_AUTH_NONE, URL_AUTH_AWS_IAM };
enum url_invoke_mode { URL_BUFFERED, URL_RESPONSE_STREAM };

struct function_url {
    char id[URL_ID_BYTES]; /* 32 lower-case letters and digits: the URL's host or path name */
    char tenant[FUNCTION_NAME_MAX + 1];
    char function[FUNCTION_NAME_MAX + 1];
    char qualifier[QUALIFIER_MAX + 1]; /* "" for $LATEST, or an alias */
    enum url_auth auth;
    enum url_invoke_mode mode;
    char cors[CORS_BYTES]; /* a JSON object as the API checked it, or "" */
    uint64_t created_ms, modified_ms;
};

/* What to set; a negative number or NULL: keep, or the default (NONE has none: required). */
struct url_change {
    int auth; /* enum url_auth */
    int mode; /* enum url_invoke_mode; URL_BUFFERED */
    const char *cors;
};

int registry_create_url(struct registry *registry, const struct function_key *key,
                        const struct url_change *url, struct function_url *ret, struct error *err);
int registry_update_url(struct registry *registry, const struct function_key *key,
                        const struct url_change *url, struct function_url *ret, struct error *err);
int registry_get_url(struct registry *registry, const struct function_key *key,
                     struct function_url *ret, struct error *err);
int registry_delete_url(struct registry *registry, const struct function_key *key,
                        struct error *err);
/* registry_find_url - by id, of any tenant: what a request to a URL starts with. O(log n). */
int registry_find_url(struct registry *registry, const char *id, struct function_url *ret,
                      struct error *err);

struct url_page {
    struct function_url urls[PAGE_MAX];
    size_t n;
    char next_marker[MARKER_BYTES];
};

/* registry_list_urls - those of one function, by qualifier. */
int registry_list_urls(struct registry *registry, const struct function_key *key,
                       const char *marker, int64_t max_items, struct url_page *ret_page,
                       struct error *err);

/* --- asynchronous events (registry_event_config.c) --- */

struct event_config {
    char qualifier[QUALIFIER_MAX + 1]; /* "$LATEST", a number or an alias */
    uint32_t retries;                  /* MaximumRetryAttempts: 0..2 */
    uint32_t max_age_s;                /* MaximumEventAgeInSeconds: 60..21600 */
    char on_success[TARGET_BYTES];     /* targets, or "" */
    char on_failure[TARGET_BYTES];
    uint64_t modified_ms;
};

/* A negative number or NULL: not given. "" takes a destination away. */
struct event_config_change {
    int64_t retries;
    int64_t max_age_s;
    const char *on_success;
    const char *on_failure;
};

/* registry_put_event_config - what is not given takes its default; _update_: keeps its value, and
 * -ENOENT where there is none. */
int registry_put_event_config(struct registry *registry, const struct function_key *key,
                              const struct event_config_change *config, struct event_config *ret,
                              struct error *err);
int registry_update_event_config(struct registry *registry, const struct function_key *key,
                                 const struct event_config_change *config, struct event_config *ret,
                                 struct error *err);
int registry_get_event_config(struct registry *registry, const struct function_key *key,
                              struct event_config *ret, struct error *err);
int registry_delete_event_config(struct registry *registry, const struct function_key *key,
                                 struct error *err);

struct event_config_page {
    struct event_config items[PAGE_MAX];
    size_t n;
    char next_marker[MARKER_BYTES];
};

int registry_list_event_configs(struct registry *registry, const struct function_key *key,
                                const char *marker, int64_t max_items,
                                struct event_config_page *ret_page, struct error *err);

/* --- resource policies (registry_policy.c) --- */

enum { POLICY_BYTES = 20481 }; /* Lambda's 20 KB and a 0 */

struct function_policy {
    char revision_id[REVISION_BYTES]; /* "" where there is none */
    char statements[POLICY_BYTES];    /* a JSON list as the API made it, or "" */
};

/* registry_get_policy - one that is not there is empty; -ENOENT without function or qualifier. */
int registry_get_policy(struct registry *registry, const struct function_key *key,
                        struct function_policy *ret, struct error *err);
/* registry_put_policy - @statements NULL: delete. -ESTALE unless it is as @if_revision_id says. */
int registry_put_policy(struct registry *registry, const struct function_key *key,
                        const char *if_revision_id, const char *statements, struct error *err);

/* --- tags (registry_tags.c): of the function; the key has no qualifier --- */

struct tag_list {
    struct text_pair tags[TAGS_MAX]; /* sorted by name; point into text */
    size_t n;
    char *text; /* owned: tag_list_done() */
};

/* registry_tag - add or overwrite; names 1..128 characters, values ≤ 256, TAGS_MAX in all. */
int registry_tag(struct registry *registry, const struct function_key *key,
                 const struct text_pair *tags, size_t n_tags, struct error *err);
/* registry_untag - names that are not there are passed over. */
int registry_untag(struct registry *registry, const struct function_key *key,
                   const char *const *names, size_t n_names, struct error *err);
int registry_get_tags(struct registry *registry, const struct function_key *key,
                      struct tag_list *ret_tags, struct error *err);
void tag_list_done(struct tag_list *tags);

#endif
