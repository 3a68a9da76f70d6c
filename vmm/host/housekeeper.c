/* What nobody needs any more goes: see housekeeper.h. */
#include "housekeeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fd.h"
#include "images/image_store.h"
#include "lambda_version.h"
#include "recent_builds.h"
#include "snapshot/snapshot_store.h"

enum {
    INTERVAL_DEFAULT_MS = 600000,
    SETTLE_DEFAULT_MS = 3000,
    NOTE_MS = 10000, /* how much of what was used may be forgotten by a kill */
    /* A pass looks at every snapshot: at most so much of a thread's time goes into it. */
    REST_FACTOR = 20,
    NS_PER_MS = 1000000,
};

struct housekeeper {
    struct housekeeper_options options;
    char *state, *images_path, *snapshots_path; /* owned */
    pthread_t thread;
    bool has_thread;
    struct recent_builds noted;                   /* what is in the file; the thread's */
    char said[sizeof(((struct error *)0)->text)]; /* the last failure; the thread's */

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool was_woken, is_ending;
    struct housekeeper_counts counts;
};

/* The same thing is said once. */
static void say(struct housekeeper *housekeeper, const struct error *err)
{
    if (strcmp(housekeeper->said, err->text) == 0)
        return;
    snprintf(housekeeper->said, sizeof(housekeeper->said), "%s", err->text);
    housekeeper->options.failed("", err->text);
}

/* --- snapshots ------------------------------------------------------------------------------- */

/* One look at the store. */
struct look {
    const struct housekeeper *housekeeper;
    struct image_info *images; /* owned */
    size_t n_images;
};

static bool has_image(const struct look *look, const char *digest)
{
    for (size_t i = 0; i < look->n_images; i++)
        if (strcmp(look->images[i].digest, digest) == 0)
            return true;
    return false;
}

/* Can it still be found by its key? That has the images' digests and the release in it. */
static bool can_be_found(const struct look *look, const struct snapshot_manifest *manifest)
{
    if (look->n_images == 0) /* this host is being set up, or its images are not mounted */
        return true;
    if (strcmp(manifest->mayfly_version, MAYFLY_VERSION) != 0 ||
        !has_image(look, manifest->kernel_digest))
        return false;
    for (uint32_t i = 0; i < manifest->n_roots; i++)
        if (!has_image(look, manifest->root_digests[i]))
            return false;
    return true;
}

/* Asked under the store's lock, when the snapshot is there: so its build was, before. */
static bool is_build_used(const struct housekeeper *housekeeper, uint64_t build_id)
{
    struct function *function = NULL;
    struct error err;
    int r = registry_find_build(housekeeper->options.registry, build_id, &function, &err);

    function_free(function);
    return r != -ENOENT; /* what cannot be looked up may be in use */
}

static bool is_wanted(void *opaque, const struct snapshot_info *info)
{
    const struct look *look = opaque;
    const struct snapshot_manifest *manifest = &info->manifest;

    if (manifest->level != SNAPSHOT_FUNCTION)
        return can_be_found(look, manifest);
    uint64_t build_id =
        lambda_version_parse_label(look->housekeeper->options.registry, manifest->name);
    if (build_id == 0) /* of `mayfly run`, of another daemon that shares the store */
        return true;
    return is_build_used(look->housekeeper, build_id) && can_be_found(look, manifest);
}

static int list_images(struct look *look, struct error *err)
{
    struct image_store *images = NULL;
    int r = image_store_open(look->housekeeper->images_path, &images, err);

    if (r == 0)
        r = image_store_list(images, &look->images, &look->n_images, err);
    image_store_close(images);
    return r;
}

static int collect_snapshots(struct housekeeper *housekeeper, struct snapshot_gc *gc,
                             struct error *err)
{
    struct look look = {.housekeeper = housekeeper};
    struct snapshot_store *store = NULL;
    int r = list_images(&look, err);

    if (r == 0)
        r = snapshot_store_open(housekeeper->snapshots_path, &store, err);
    if (r == 0 && housekeeper->options.cache_bytes)
        snapshot_store_set_cache_limit(store, housekeeper->options.cache_bytes);
    if (r == 0)
        r = snapshot_store_collect(store, is_wanted, &look, gc, err);
    snapshot_store_close(store);
    free(look.images);
    return r < 0 ? error_wrap(err, "collect snapshots") : 0;
}

/* --- what is used ---------------------------------------------------------------------------- */

static bool note_recent(void *opaque, const struct function_version *version)
{
    struct recent_builds *recent = opaque;

    recent->ids[recent->n++] = version->build_id;
    return recent->n < RECENT_MAX;
}

/* On disk only when it is another one than last time. */
static void note_used(struct housekeeper *housekeeper)
{
    struct recent_builds recent = {.n = 0};
    struct error err;

    instance_pool_each_version(housekeeper->options.pool, note_recent, &recent);
    if (recent.n == 0 || memcmp(&recent, &housekeeper->noted, sizeof(recent)) == 0)
        return;
    if (recent_builds_write(housekeeper->state, &recent, &err) < 0)
        say(housekeeper, &err);
    else
        housekeeper->noted = recent;
}

/* --- the start ------------------------------------------------------------------------------- */

static int open_one(struct housekeeper *housekeeper, uint64_t build_id, struct error *err)
{
    struct registry *registry = housekeeper->options.registry;
    struct function *function = NULL;
    struct lambda_version version;
    int r = registry_find_build(registry, build_id, &function, err);

    if (r == 0)
        r = lambda_version_init(&version, registry, function, err);
    if (r == 0) {
        r = instance_pool_open(housekeeper->options.pool, &version.version, err);
        lambda_version_done(&version);
    }
    function_free(function);
    return r;
}

static bool is_ending(struct housekeeper *housekeeper)
{
    pthread_mutex_lock(&housekeeper->lock);
    bool ending = housekeeper->is_ending;
    pthread_mutex_unlock(&housekeeper->lock);
    return ending;
}

/* The oldest first: so the pool's order is what it was, and those used last are kept if there is
 * no room for all. */
static void warm_up(struct housekeeper *housekeeper)
{
    struct recent_builds recent = {.n = 0};
    uint32_t opened = 0;
    struct error err;

    if (recent_builds_read(housekeeper->state, &recent, &err) < 0)
        say(housekeeper, &err);
    for (size_t i = recent.n; i-- > 0 && !is_ending(housekeeper);) {
        int r = open_one(housekeeper, recent.ids[i], &err);

        opened += r == 0;
        if (r < 0 && r != -ENOENT && r != -ESHUTDOWN)
            say(housekeeper, &err);
    }
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->counts.opened = opened;
    pthread_mutex_unlock(&housekeeper->lock);
}

/* --- the thread ------------------------------------------------------------------------------ */

static void pass(struct housekeeper *housekeeper)
{
    struct snapshot_gc gc = {.snapshots = 0};
    uint64_t freed_bytes = 0;
    struct error err;

    if (registry_collect(housekeeper->options.registry, &freed_bytes, &err) < 0) {
        error_wrap(&err, "collect code");
        say(housekeeper, &err);
    }
    if (collect_snapshots(housekeeper, &gc, &err) < 0)
        say(housekeeper, &err);
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->counts.passes++;
    housekeeper->counts.snapshots += gc.snapshots;
    housekeeper->counts.freed_bytes += freed_bytes + gc.freed_bytes;
    pthread_mutex_unlock(&housekeeper->lock);
}

/* Until @at_ns, or the end, or (if @until_woken) a wake. With the lock. */
static void sleep_until(struct housekeeper *housekeeper, uint64_t at_ns, bool until_woken)
{
    const struct timespec until = {.tv_sec = (time_t)(at_ns / 1000000000u),
                                   .tv_nsec = (long)(at_ns % 1000000000u)};
    int r = 0;

    while (r == 0 && !housekeeper->is_ending && !(until_woken && housekeeper->was_woken))
        r = pthread_cond_timedwait(&housekeeper->wake, &housekeeper->lock, &until);
}

/* Until there is something to do: woken, or the interval is over. Meanwhile notes what is used. */
static void rest(struct housekeeper *housekeeper, uint64_t took_ns)
{
    const struct housekeeper_options *options = &housekeeper->options;
    uint64_t now_ns = clock_now_ns(), settle_ns = options->settle_ms * NS_PER_MS;
    uint64_t earliest_ns = now_ns + took_ns * REST_FACTOR;
    uint64_t at_ns = now_ns + options->interval_ms * NS_PER_MS;

    pthread_mutex_lock(&housekeeper->lock);
    while (!housekeeper->is_ending && !housekeeper->was_woken && clock_now_ns() < at_ns) {
        uint64_t note_ns = clock_now_ns() + NOTE_MS * (uint64_t)NS_PER_MS;

        sleep_until(housekeeper, note_ns < at_ns ? note_ns : at_ns, true);
        pthread_mutex_unlock(&housekeeper->lock);
        note_used(housekeeper);
        pthread_mutex_lock(&housekeeper->lock);
    }
    at_ns = clock_now_ns() + settle_ns;
    sleep_until(housekeeper, at_ns > earliest_ns ? at_ns : earliest_ns, false);
    housekeeper->was_woken = false;
    pthread_mutex_unlock(&housekeeper->lock);
}

static void *housekeeper_main(void *opaque)
{
    struct housekeeper *housekeeper = opaque;

    warm_up(housekeeper);
    while (!is_ending(housekeeper)) {
        uint64_t start_ns = clock_now_ns();

        pass(housekeeper);
        rest(housekeeper, clock_now_ns() - start_ns);
    }
    note_used(housekeeper);
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

static int name_paths(struct housekeeper *housekeeper)
{
    const char *state = housekeeper->options.state;

    housekeeper->state = strdup(state);
    if (asprintf(&housekeeper->images_path, "%s/images", state) < 0)
        housekeeper->images_path = NULL;
    if (asprintf(&housekeeper->snapshots_path, "%s/snapshots", state) < 0)
        housekeeper->snapshots_path = NULL;
    return housekeeper->state && housekeeper->images_path && housekeeper->snapshots_path ? 0
                                                                                         : -ENOMEM;
}

int housekeeper_new(const struct housekeeper_options *options, struct housekeeper **ret_housekeeper,
                    struct error *err)
{
    struct housekeeper *housekeeper = calloc(1, sizeof(*housekeeper));
    pthread_condattr_t monotonic;

    if (!housekeeper)
        return error_set(err, ENOMEM, "keep house");
    housekeeper->options = *options;
    if (!housekeeper->options.interval_ms)
        housekeeper->options.interval_ms = INTERVAL_DEFAULT_MS;
    if (!housekeeper->options.settle_ms)
        housekeeper->options.settle_ms = SETTLE_DEFAULT_MS;
    pthread_mutex_init(&housekeeper->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&housekeeper->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int e = name_paths(housekeeper) < 0 ? ENOMEM : 0;
    if (e == 0)
        e = pthread_create(&housekeeper->thread, NULL, housekeeper_main, housekeeper);
    if (e) {
        housekeeper_free(housekeeper);
        return error_set(err, e, "keep house");
    }
    housekeeper->has_thread = true;
    *ret_housekeeper = housekeeper;
    return 0;
}

void housekeeper_wake(struct housekeeper *housekeeper)
{
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->was_woken = true;
    pthread_cond_signal(&housekeeper->wake);
    pthread_mutex_unlock(&housekeeper->lock);
}

void housekeeper_get_counts(struct housekeeper *housekeeper, struct housekeeper_counts *ret_counts)
{
    pthread_mutex_lock(&housekeeper->lock);
    *ret_counts = housekeeper->counts;
    pthread_mutex_unlock(&housekeeper->lock);
}

void housekeeper_stop(struct housekeeper *housekeeper)
{
    if (!housekeeper || !housekeeper->has_thread)
        return;
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->is_ending = true;
    pthread_cond_signal(&housekeeper->wake);
    pthread_mutex_unlock(&housekeeper->lock);
    pthread_join(housekeeper->thread, NULL);
    housekeeper->has_thread = false;
}

void housekeeper_free(struct housekeeper *housekeeper)
{
    if (!housekeeper)
        return;
    free(housekeeper->state);
    free(housekeeper->images_path);
    free(housekeeper->snapshots_path);
    pthread_cond_destroy(&housekeeper->wake);
    pthread_mutex_destroy(&housekeeper->lock);
    free(housekeeper);
}
