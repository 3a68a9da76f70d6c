/* Counting events under way: see concurrency.h. */
#include "concurrency.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/text_hash.h"

enum { BUCKETS = 1024 };

struct counted_tenant {
    struct counted_tenant *next;
    uint32_t unreserved; /* events under way of functions without a reservation */
    uint32_t functions;
    char name[];
};

struct concurrency {
    struct counted_tenant *tenants[BUCKETS];     /* owned lists, as are these */
    struct counted_function *functions[BUCKETS]; /* each with its name behind it */
};

struct concurrency *concurrency_new(void)
{
    return calloc(1, sizeof(struct concurrency));
}

void concurrency_free(struct concurrency *concurrency)
{
    if (!concurrency)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct counted_function *next, *item = concurrency->functions[i]; item; item = next) {
            next = item->next;
            free(item);
        }
        for (struct counted_tenant *next, *item = concurrency->tenants[i]; item; item = next) {
            next = item->next;
            free(item);
        }
    }
    free(concurrency);
}

static struct counted_tenant **tenant_link(struct concurrency *concurrency, const char *name)
{
    struct counted_tenant **link =
        &concurrency->tenants[text_hash(TEXT_HASH_START, name) % BUCKETS];

    while (*link && strcmp((*link)->name, name) != 0)
        link = &(*link)->next;
    return link;
}

static struct counted_function **function_link(struct concurrency *concurrency, const char *tenant,
                                               const char *name)
{
    uint64_t hash = text_hash(text_hash(TEXT_HASH_START, tenant), name);
    struct counted_function **link = &concurrency->functions[hash % BUCKETS];

    while (*link &&
           (strcmp((*link)->name, name) != 0 || strcmp((*link)->tenant->name, tenant) != 0))
        link = &(*link)->next;
    return link;
}

static struct counted_tenant *find_tenant(struct concurrency *concurrency, const char *name)
{
    struct counted_tenant **link = tenant_link(concurrency, name);

    if (!*link) {
        size_t len = strlen(name) + 1;

        *link = calloc(1, sizeof(**link) + len);
        if (*link)
            memcpy((*link)->name, name, len);
    }
    return *link;
}

struct counted_function *concurrency_find(struct concurrency *concurrency, const char *tenant,
                                          const char *name)
{
    struct counted_function **link = function_link(concurrency, tenant, name);
    size_t len = strlen(name) + 1;

    if (*link) {
        (*link)->is_forgotten = false;
        return *link;
    }
    struct counted_tenant *owner = find_tenant(concurrency, tenant);
    struct counted_function *function = owner ? calloc(1, sizeof(*function) + len) : NULL;
    if (!function)
        return NULL;
    char *copy = (char *)(function + 1);
    memcpy(copy, name, len);
    function->name = copy;
    function->tenant = owner;
    owner->functions++;
    *link = function;
    return function;
}

enum concurrency_verdict concurrency_enter(struct counted_function *function,
                                           const struct concurrency_limits *limits,
                                           bool *ret_is_reserved)
{
    bool is_reserved = limits->reserved >= 0;

    if (is_reserved && function->counters.in_flight >= (uint32_t)limits->reserved) {
        function->counters.throttled++;
        return CONCURRENCY_FUNCTION_FULL;
    }
    if (!is_reserved && function->tenant->unreserved >= limits->unreserved) {
        function->counters.throttled++;
        return CONCURRENCY_ACCOUNT_FULL;
    }
    function->tenant->unreserved += !is_reserved;
    function->counters.in_flight++;
    function->users++;
    *ret_is_reserved = is_reserved;
    return CONCURRENCY_ENTERED;
}

static void remove_function(struct concurrency *concurrency, struct counted_function *function)
{
    struct counted_tenant *owner = function->tenant;
    struct counted_function **link = function_link(concurrency, owner->name, function->name);

    *link = function->next;
    free(function);
    if (--owner->functions > 0)
        return;
    *tenant_link(concurrency, owner->name) = owner->next;
    free(owner);
}

void concurrency_unuse(struct concurrency *concurrency, struct counted_function *function)
{
    if (--function->users == 0 && function->is_forgotten)
        remove_function(concurrency, function);
}

void concurrency_leave(struct concurrency *concurrency, struct counted_function *function,
                       bool is_reserved)
{
    function->tenant->unreserved -= !is_reserved;
    function->counters.in_flight--;
    concurrency_unuse(concurrency, function);
}

void concurrency_forget(struct concurrency *concurrency, const char *tenant, const char *name)
{
    struct counted_function *function = *function_link(concurrency, tenant, name);

    if (!function)
        return;
    function->is_forgotten = true;
    if (function->users == 0)
        remove_function(concurrency, function);
}

void concurrency_each(struct concurrency *concurrency, concurrency_visitor *visit, void *opaque)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct counted_function *item = concurrency->functions[i]; item; item = item->next)
            visit(opaque, item->tenant->name, item->name, &item->counters);
}
