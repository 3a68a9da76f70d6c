/*
 * Provisioned concurrency: see provisioner.h.
 *
 * A configuration is of an alias or a version; instances are of a version. So the configurations
 * are resolved first, those of one version added up, and the sums compared with what the pool was
 * told. Of an alias that splits its events only the main version is held: the share of the other
 * comes by weight, and what is promised is the alias's own.
 */
#include "provisioner.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lambda_version.h"

enum {
    HOLDINGS_MAX = 10000,
    PENDING_WAIT_S = 1, /* a build is under way: nobody tells when it is done */
    FAILED_WAIT_S = 10,
    SETTLED_WAIT_S = 60,
    MOST_PERCENT_DEFAULT = 100,
    TARGET_PERCENT_DEFAULT = 70,
};

/* A configuration, and what it comes to. */
struct holding {
    char tenant[FUNCTION_NAME_MAX + 1];
    struct provisioned item;
    uint64_t build_id; /* 0: it cannot be held yet */
    char version[VERSION_TEXT_BYTES];
    uint32_t before; /* of this version, asked for by holdings before this one */
    char failure[sizeof(((struct provisioner_status *)0)->failure)];
};

struct holdings {
    struct holding *list; /* owned */
    size_t n, room;
};

/* What the pool was told of a version. */
struct applied {
    char tenant[FUNCTION_NAME_MAX + 1], function[FUNCTION_NAME_MAX + 1];
    char version[VERSION_TEXT_BYTES];
    uint64_t build_id;
    uint32_t requested;
    bool is_wanted; /* while they are compared */
};

struct provisioner {
    struct provisioner_options options;
    pthread_t thread;
    bool has_thread;
    struct applied *applied; /* owned; the thread's */
    size_t n_applied, room_applied;
    char said[sizeof(((struct error *)0)->text)]; /* the last failure; the thread's */

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool was_woken, is_ending;
    struct holdings held; /* as last looked at */
};

/* One more place at the end of an array that doubles; NULL: out of memory. */
static void *add_place(void *list, size_t *n, size_t *room, size_t size)
{
    void **items = list;

    if (*n == *room) {
        size_t wanted = *room ? *room * 2 : 16;
        void *grown = realloc(*items, wanted * size);

        if (!grown)
            return NULL;
        *items = grown;
        *room = wanted;
    }
    void *place = (char *)*items + (*n)++ * size;
    memset(place, 0, size);
    return place;
}

/* The same thing is said once. */
static void say(struct provisioner *provisioner, const char *text)
{
    if (strcmp(provisioner->said, text) == 0)
        return;
    snprintf(provisioner->said, sizeof(provisioner->said), "%s", text);
    provisioner->options.failed("", text);
}

/* --- what is asked for ----------------------------------------------------------------------- */

static int collect_one(void *opaque, const char *tenant, const struct provisioned *item)
{
    struct holdings *holdings = opaque;

    if (holdings->n == HOLDINGS_MAX)
        return -E2BIG;
    struct holding *holding =
        add_place(&holdings->list, &holdings->n, &holdings->room, sizeof(*holding));
    if (!holding)
        return -ENOMEM;
    snprintf(holding->tenant, sizeof(holding->tenant), "%s", tenant);
    holding->item = *item;
    return 0;
}

static bool is_same_version(const struct holding *a, const struct holding *b)
{
    return a->build_id == b->build_id && strcmp(a->tenant, b->tenant) == 0 &&
           strcmp(a->item.function, b->item.function) == 0;
}

/* Which version it means at present, and may that one be restored? */
static int resolve(struct provisioner *provisioner, struct holdings *holdings, size_t i,
                   struct error *err)
{
    struct holding *holding = &holdings->list[i];
    const struct function_key key = {holding->tenant, holding->item.function,
                                     holding->item.qualifier};
    struct function *function = NULL;
    int r = registry_find(provisioner->options.registry, &key, -1, &function, err);

    if (r < 0) /* -ENOENT: deleted since the list was read. Else nothing is let go for it */
        return r == -ENOENT ? 0 : r;
    if (r == 0 && function->state == FUNCTION_FAILED)
        snprintf(holding->failure, sizeof(holding->failure), "FUNCTION_ERROR_INIT_FAILURE");
    if (r == 0 && function->state == FUNCTION_ACTIVE) {
        holding->build_id = function->build_id;
        memcpy(holding->version, function->version_text, sizeof(holding->version));
        for (size_t k = 0; k < i; k++)
            if (is_same_version(&holdings->list[k], holding))
                holding->before += holdings->list[k].item.requested;
    }
    function_free(function);
    return 0;
}

static int collect(struct provisioner *provisioner, struct holdings *holdings, struct error *err)
{
    int r = registry_each_provisioned(provisioner->options.registry, collect_one, holdings, err);

    if (r == -ENOMEM || r == -E2BIG)
        return error_set(err, -r, "list the provisioned concurrency");
    for (size_t i = 0; r == 0 && i < holdings->n; i++)
        r = resolve(provisioner, holdings, i, err);
    return r;
}

/* --- what is held ---------------------------------------------------------------------------- */

static bool is_of(const struct applied *applied, const struct holding *holding)
{
    return applied->build_id == holding->build_id &&
           strcmp(applied->tenant, holding->tenant) == 0 &&
           strcmp(applied->function, holding->item.function) == 0;
}

static struct applied *find_applied(struct provisioner *provisioner, const struct holding *holding)
{
    for (size_t i = 0; i < provisioner->n_applied; i++)
        if (is_of(&provisioner->applied[i], holding))
            return &provisioner->applied[i];
    return NULL;
}

/* Enough for the pool to know which one is meant. */
static struct function_version name_version(const struct applied *applied)
{
    return (struct function_version){
        .tenant = applied->tenant,
        .build_id = applied->build_id,
        .function = {.name = applied->function, .version = applied->version}};
}

/* Lets go of it; false: it is to be tried again. */
static bool release(struct provisioner *provisioner, const struct applied *applied)
{
    const struct function_version version = name_version(applied);
    const struct pool_provision none = {0, 0, 1.0};
    struct pool_lease lease;
    struct error err;
    int r = instance_pool_provision(provisioner->options.pool, &version, &none, &lease, &err);

    return r == 0 || r == -ESHUTDOWN;
}

static void release_unwanted(struct provisioner *provisioner)
{
    size_t kept = 0;

    for (size_t i = 0; i < provisioner->n_applied; i++) {
        struct applied *applied = &provisioner->applied[i];

        if (applied->is_wanted || (applied->requested > 0 && !release(provisioner, applied)))
            provisioner->applied[kept++] = *applied;
    }
    provisioner->n_applied = kept;
}

static struct pool_provision provision_of(const struct provisioner *provisioner, uint32_t requested)
{
    const struct provisioner_options *options = &provisioner->options;
    uint64_t most = (uint64_t)requested * options->most_percent / 100;

    return (struct pool_provision){.minimum = requested,
                                   .maximum = most > UINT32_MAX ? UINT32_MAX : (uint32_t)most,
                                   .target = options->target_percent / 100.0};
}

/* Tells the pool. Waits until the version's snapshot is open, not for the instances. */
static int apply(struct provisioner *provisioner, const struct holding *holding, uint32_t requested,
                 char *failure, size_t size)
{
    const struct pool_provision provision = provision_of(provisioner, requested);
    struct registry *registry = provisioner->options.registry;
    struct pool_lease lease = {.verdict = POOL_READY};
    struct function *function = NULL;
    struct lambda_version version;
    struct error err;
    int r = registry_find_build(registry, holding->build_id, &function, &err);

    if (r == 0)
        r = lambda_version_init(&version, registry, function, &err);
    if (r == 0) {
        r = instance_pool_provision(provisioner->options.pool, &version.version, &provision, &lease,
                                    &err);
        lambda_version_done(&version);
    }
    function_free(function);
    if (r == 0 && lease.verdict == POOL_READY)
        return 0;
    if (r == 0 && lease.verdict == POOL_INIT_FAILED) {
        agent_result_done(&lease.init);
        snprintf(failure, size, "FUNCTION_ERROR_INIT_FAILURE");
        return -EIO;
    }
    if (r == 0)
        r = error_say(&err, EAGAIN, "this host has no room for another instance");
    snprintf(failure, size, "%.*s", (int)size - 1, err.text);
    if (r != -ENOENT && r != -ESHUTDOWN) {
        error_wrap(&err, "hold instances of '%s' of tenant '%s' ready", holding->item.function,
                   holding->tenant);
        say(provisioner, err.text);
    }
    return r;
}

/* The pool forgets what was invalidated, as a version that was made anew. */
static bool has_forgotten(struct provisioner *provisioner, const struct applied *applied)
{
    const struct function_version version = name_version(applied);
    struct pool_provision_status status;

    instance_pool_provision_status(provisioner->options.pool, &version, &status);
    return status.wanted == 0;
}

/* One version of which @requested are asked for in all. */
static void hold(struct provisioner *provisioner, struct holding *holding, uint32_t requested)
{
    struct applied *applied = find_applied(provisioner, holding);

    if (!applied) {
        applied = add_place(&provisioner->applied, &provisioner->n_applied,
                            &provisioner->room_applied, sizeof(*applied));
        if (!applied) {
            snprintf(holding->failure, sizeof(holding->failure), "out of memory");
            return;
        }
        snprintf(applied->tenant, sizeof(applied->tenant), "%s", holding->tenant);
        memcpy(applied->function, holding->item.function, sizeof(applied->function));
        memcpy(applied->version, holding->version, sizeof(applied->version));
        applied->build_id = holding->build_id;
    }
    applied->is_wanted = true;
    if (applied->requested == requested && !has_forgotten(provisioner, applied))
        return;
    int r = apply(provisioner, holding, requested, holding->failure, sizeof(holding->failure));
    applied->requested = r == 0 ? requested : 0;
}

/* --- comparing ------------------------------------------------------------------------------- */

static uint32_t sum_of_version(const struct holdings *holdings, size_t first)
{
    uint64_t sum = 0;

    for (size_t i = first; i < holdings->n; i++)
        if (is_same_version(&holdings->list[i], &holdings->list[first]))
            sum += holdings->list[i].item.requested;
    return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

static void hold_all(struct provisioner *provisioner, struct holdings *holdings)
{
    for (size_t i = 0; i < provisioner->n_applied; i++)
        provisioner->applied[i].is_wanted = false;
    for (size_t i = 0; i < holdings->n; i++) { /* what is held now must not be let go first */
        struct applied *applied = find_applied(provisioner, &holdings->list[i]);

        if (applied && holdings->list[i].build_id)
            applied->is_wanted = true;
    }
    release_unwanted(provisioner); /* first: their room is needed */
    for (size_t i = 0; i < holdings->n; i++)
        if (holdings->list[i].build_id && holdings->list[i].before == 0)
            hold(provisioner, &holdings->list[i], sum_of_version(holdings, i));
}

/* Returns how long the next look can wait, in seconds. */
static unsigned look(struct provisioner *provisioner)
{
    struct holdings found = {NULL, 0, 0};
    unsigned wait_s = SETTLED_WAIT_S;
    struct error err;

    if (collect(provisioner, &found, &err) < 0) {
        say(provisioner, err.text);
        free(found.list);
        return FAILED_WAIT_S;
    }
    hold_all(provisioner, &found);
    for (size_t i = 0; i < found.n; i++) {
        unsigned own_s = found.list[i].failure[0] ? FAILED_WAIT_S
                         : found.list[i].build_id ? SETTLED_WAIT_S
                                                  : PENDING_WAIT_S;

        wait_s = own_s < wait_s ? own_s : wait_s;
    }
    pthread_mutex_lock(&provisioner->lock);
    struct holdings old = provisioner->held;
    provisioner->held = found;
    pthread_mutex_unlock(&provisioner->lock);
    free(old.list);
    return wait_s;
}

static void *provisioner_main(void *opaque)
{
    struct provisioner *provisioner = opaque;

    pthread_mutex_lock(&provisioner->lock);
    while (!provisioner->is_ending) {
        struct timespec until;
        int r = 0;

        provisioner->was_woken = false;
        pthread_mutex_unlock(&provisioner->lock);
        unsigned wait_s = look(provisioner);
        pthread_mutex_lock(&provisioner->lock);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += wait_s;
        while (r == 0 && !provisioner->was_woken && !provisioner->is_ending)
            r = pthread_cond_timedwait(&provisioner->wake, &provisioner->lock, &until);
    }
    pthread_mutex_unlock(&provisioner->lock);
    return NULL;
}

/* --- status ---------------------------------------------------------------------------------- */

static uint32_t share_of(uint32_t all, const struct holding *holding, bool is_last)
{
    uint32_t rest = all > holding->before ? all - holding->before : 0;

    /* What target tracking adds belongs to nobody in particular: to the last one. */
    return is_last || rest < holding->item.requested ? rest : holding->item.requested;
}

static bool is_last_of_version(const struct holdings *holdings, const struct holding *holding)
{
    for (size_t i = 0; i < holdings->n; i++)
        if (&holdings->list[i] > holding && is_same_version(&holdings->list[i], holding))
            return false;
    return true;
}

static const struct holding *find_holding(const struct holdings *holdings, const char *tenant,
                                          const struct provisioned *item)
{
    for (size_t i = 0; i < holdings->n; i++)
        if (strcmp(holdings->list[i].item.qualifier, item->qualifier) == 0 &&
            strcmp(holdings->list[i].item.function, item->function) == 0 &&
            strcmp(holdings->list[i].tenant, tenant) == 0)
            return &holdings->list[i];
    return NULL;
}

void provisioner_get_status(struct provisioner *provisioner, const char *tenant,
                            const struct provisioned *item, struct provisioner_status *ret_status)
{
    struct provisioner_status status = {.allocated = 0};

    pthread_mutex_lock(&provisioner->lock);
    const struct holding *holding = find_holding(&provisioner->held, tenant, item);
    if (holding && holding->build_id) {
        const struct function_version version = {
            .tenant = tenant,
            .build_id = holding->build_id,
            .function = {.name = item->function, .version = holding->version}};
        struct pool_provision_status pool;
        bool is_last = is_last_of_version(&provisioner->held, holding);

        instance_pool_provision_status(provisioner->options.pool, &version, &pool);
        status.allocated = share_of(pool.wanted, holding, is_last);
        status.available = share_of(pool.ready, holding, is_last);
        memcpy(status.failure, pool.trouble, sizeof(pool.trouble));
    }
    if (holding && holding->failure[0])
        memcpy(status.failure, holding->failure, sizeof(status.failure));
    pthread_mutex_unlock(&provisioner->lock);
    *ret_status = status;
}

/* --- life ------------------------------------------------------------------------------------ */

int provisioner_new(const struct provisioner_options *options, struct provisioner **ret_provisioner,
                    struct error *err)
{
    struct provisioner *provisioner = calloc(1, sizeof(*provisioner));
    pthread_condattr_t monotonic;

    if (!provisioner)
        return error_set(err, ENOMEM, "hold provisioned concurrency");
    provisioner->options = *options;
    if (!provisioner->options.most_percent)
        provisioner->options.most_percent = MOST_PERCENT_DEFAULT;
    if (!provisioner->options.target_percent)
        provisioner->options.target_percent = TARGET_PERCENT_DEFAULT;
    pthread_mutex_init(&provisioner->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&provisioner->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int e = pthread_create(&provisioner->thread, NULL, provisioner_main, provisioner);
    if (e) {
        provisioner_free(provisioner);
        return error_set(err, e, "hold provisioned concurrency");
    }
    provisioner->has_thread = true;
    *ret_provisioner = provisioner;
    return 0;
}

void provisioner_wake(struct provisioner *provisioner)
{
    pthread_mutex_lock(&provisioner->lock);
    provisioner->was_woken = true;
    pthread_cond_signal(&provisioner->wake);
    pthread_mutex_unlock(&provisioner->lock);
}

void provisioner_stop(struct provisioner *provisioner)
{
    if (!provisioner || !provisioner->has_thread)
        return;
    pthread_mutex_lock(&provisioner->lock);
    provisioner->is_ending = true;
    pthread_cond_signal(&provisioner->wake);
    pthread_mutex_unlock(&provisioner->lock);
    pthread_join(provisioner->thread, NULL);
    provisioner->has_thread = false;
}

void provisioner_free(struct provisioner *provisioner)
{
    if (!provisioner)
        return;
    free(provisioner->held.list);
    free(provisioner->applied);
    pthread_cond_destroy(&provisioner->wake);
    pthread_mutex_destroy(&provisioner->lock);
    free(provisioner);
}
