/*
 * What goes and what stays: a real registry, a real snapshot store and real images, over a pool
 * whose instances are structures. With real guests: tests/integration/test_restart.py.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/housekeeper.h"
#include "host/lambda_version.h"
#include "host/recent_builds.h"
#include "image_fixture.h"
#include "images/image_store.h"
#include "registry_fixture.h"
#include "snapshot_fixture.h"

enum { PATIENCE_MS = 20000, IMAGE_BYTES = 64 << 10 };

/* --- a source of instances ------------------------------------------------------------------- */

struct instance {
    int unused;
};

struct frozen_version {
    uint64_t build_id;
};

static atomic_int live, finds, expected;

static int fake_find(void *opaque, const struct function_version *version,
                     struct frozen_version **ret_frozen, struct error *err)
{
    (void)opaque;
    (void)err;
    finds++;
    *ret_frozen = calloc(1, sizeof(**ret_frozen));
    (*ret_frozen)->build_id = version->build_id;
    return 0;
}

static void fake_expect(void *opaque, const struct frozen_version *frozen)
{
    (void)opaque;
    (void)frozen;
    expected++;
}

static int fake_restore(void *opaque, const struct frozen_version *frozen, agent_log *log,
                        void *log_opaque, struct instance **ret_instance, struct error *err)
{
    (void)opaque;
    (void)frozen;
    (void)log;
    (void)log_opaque;
    (void)err;
    *ret_instance = calloc(1, sizeof(**ret_instance));
    live++;
    return 0;
}

static void fake_forget(struct frozen_version *frozen)
{
    free(frozen);
}

static bool fake_is_alive(const struct instance *instance)
{
    (void)instance;
    return true;
}

static void fake_destroy(struct instance *instance)
{
    live--;
    free(instance);
}

static const struct instance_source_ops ops = {.find = fake_find,
                                               .expect = fake_expect,
                                               .restore = fake_restore,
                                               .forget = fake_forget,
                                               .is_alive = fake_is_alive,
                                               .destroy = fake_destroy};

static char said[256];

static void on_failed(const char *request_id, const char *text)
{
    (void)request_id;
    strncpy(said, text, sizeof(said) - 1);
}

/* --- the fixture ----------------------------------------------------------------------------- */

struct fixture {
    struct registry_fixture base;
    struct snapshot_world *world;
    char image[IMAGE_DIGEST_HEX + 1];
    struct instance_pool *pool;
    struct housekeeper *housekeeper;
};

static void add_image(struct fixture *f, const char *name, unsigned seed)
{
    struct image_info info = {.runtime = "python3.11", .made_of = "test"};
    uint8_t *raw = fixture_root_image(IMAGE_BYTES, seed);
    struct image_store *store = NULL;
    char path[128];
    struct error err;

    snprintf(path, sizeof(path), "%s/raw", f->base.state);
    fixture_write(path, raw, IMAGE_BYTES);
    snprintf(info.name, sizeof(info.name), "%s", name);
    fixture_expect(image_store_open(fixture_path(&f->base, "images"), &store, &err), 0, &err, "");
    fixture_expect(image_store_add(store, path, &info, &err), 0, &err, "");
    memcpy(f->image, info.digest, sizeof(f->image));
    image_store_close(store);
    free(raw);
}

static void start(struct fixture *f)
{
    const struct instance_pool_config config = {
        .ops = &ops, .keep_alive_ms = 3600000, .max_instances = 100, .interrupt_fd = -1};
    struct error err;

    live = 0;
    finds = 0;
    expected = 0;
    said[0] = '\0';
    assert_int_equal(instance_pool_new(&config, &f->pool, &err), 0);
    const struct housekeeper_options options = {.registry = f->base.registry,
                                                .pool = f->pool,
                                                .state = f->base.state,
                                                .settle_ms = 1,
                                                .failed = on_failed};
    assert_int_equal(housekeeper_new(&options, &f->housekeeper, &err), 0);
}

static void stop(struct fixture *f)
{
    assert_int_equal(instance_pool_shutdown(f->pool, PATIENCE_MS), 0);
    housekeeper_stop(f->housekeeper);
    housekeeper_free(f->housekeeper);
    instance_pool_free(f->pool);
    assert_int_equal(live, 0);
}

static int set_up(void **state)
{
    static struct fixture f;

    fixture_open(&f.base);
    f.world = snapshot_world_new(4);
    assert_int_equal(symlink(f.world->path, fixture_path(&f.base, "snapshots")), 0);
    add_image(&f, "base", 1);
    start(&f);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    stop(f);
    snapshot_world_free(f->world);
    fixture_close(&f->base);
    return 0;
}

static struct housekeeper_counts counts_of(struct fixture *f)
{
    struct housekeeper_counts counts;

    housekeeper_get_counts(f->housekeeper, &counts);
    return counts;
}

/* A whole pass that began after now. */
static void keep_house(struct fixture *f)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull, passes = counts_of(f).passes;

    while (counts_of(f).passes < passes + 2 && clock_now_us() < until_us) {
        housekeeper_wake(f->housekeeper);
        poll(NULL, 0, 5);
    }
    assert_true(counts_of(f).passes >= passes + 2);
}

static struct snapshot_manifest write_snapshot(struct fixture *f, enum snapshot_level level,
                                               const char *name,
                                               const struct snapshot_manifest *parent)
{
    struct snapshot_manifest about = snapshot_world_about(f->world, level, name, parent), made;
    struct error err;

    snprintf(about.mayfly_version, sizeof(about.mayfly_version), "%s", MAYFLY_VERSION);
    memcpy(about.kernel_digest, f->image, sizeof(about.kernel_digest));
    memcpy(about.root_digests[0], f->image, sizeof(about.root_digests[0]));
    snapshot_world_fill(f->world, 1, 3, (unsigned)clock_now_us());
    snapshot_world_forget(f->world);
    fixture_expect(snapshot_world_try(f->world, &about, &made, &err), 0, &err, "");
    return made;
}

/* As the instance source names it. */
static const char *name_of(struct fixture *f, uint64_t build_id)
{
    static char name[SNAPSHOT_NAME_MAX + 1];

    snprintf(name, sizeof(name), "function-%016" PRIx64 ".%" PRIu64 "-0123456789abcdef",
             registry_identity(f->base.registry), build_id);
    return name;
}

static bool is_there(struct fixture *f, const struct snapshot_manifest *manifest)
{
    struct snapshot_info info;

    return snapshot_store_inspect(f->world->store, manifest->id, &info, NULL) == 0 && info.is_named;
}

static uint64_t build_of(struct fixture *f, const char *name, const char *qualifier)
{
    struct function *function = fixture_find(&f->base, name, qualifier);
    uint64_t build_id = function->build_id;

    function_free(function);
    return build_id;
}

static unsigned count_code(struct fixture *f)
{
    char command[160], line[16] = "";

    snprintf(command, sizeof(command), "ls '%s/code' | wc -l", f->base.state);
    FILE *pipe = popen(command, "r");
    assert_non_null(fgets(line, sizeof(line), pipe));
    pclose(pipe);
    return (unsigned)atoi(line);
}

/* --- cases ----------------------------------------------------------------------------------- */

static void code_and_snapshots_go_with_their_build(void **state)
{
    struct fixture *f = *state;
    const struct function_key key = fixture_key("g", NULL);
    struct error err;

    fixture_create(&f->base, "f", "one");
    fixture_create(&f->base, "g", "two");
    struct snapshot_manifest base = write_snapshot(f, SNAPSHOT_BASE, "base-1", NULL);
    struct snapshot_manifest kept =
        write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, build_of(f, "f", NULL)), &base);
    struct snapshot_manifest gone =
        write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, build_of(f, "g", NULL)), &base);
    /* Somebody else's: `mayfly run`, a user, another daemon whose build has that number. */
    struct snapshot_manifest others[] = {
        write_snapshot(f, SNAPSHOT_FUNCTION, "function-0123456789abcdef", &base),
        write_snapshot(f, SNAPSHOT_FUNCTION, "mine", &base),
        write_snapshot(f, SNAPSHOT_FUNCTION, "function-0000000000000001.99-0123456789abcdef",
                       &base)};
    keep_house(f);
    assert_true(is_there(f, &kept) && is_there(f, &gone) && is_there(f, &base));
    assert_int_equal(count_code(f), 2);
    assert_int_equal(registry_delete(f->base.registry, &key, &err), 0);
    keep_house(f);
    assert_int_equal(count_code(f), 1);
    assert_true(is_there(f, &kept));
    assert_false(is_there(f, &gone));
    for (size_t i = 0; i < 3; i++)
        assert_true(is_there(f, &others[i]));
    assert_int_equal(counts_of(f).snapshots, 1);
    assert_true(counts_of(f).freed_bytes > 0);
    assert_string_equal(said, "");
}

/* While an update is built, and if it fails, the build before serves; then it goes. */
static void a_build_goes_when_the_next_one_serves(void **state)
{
    struct fixture *f = *state;
    const struct function_key key = fixture_key("f", NULL);
    struct error err;

    fixture_create(&f->base, "f", "one");
    uint64_t first = build_of(f, "f", NULL);
    struct snapshot_manifest old = write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, first), NULL);
    struct code_staged *code = fixture_stage(&f->base, "two");
    fixture_expect(registry_update_code(f->base.registry, &key, code, NULL, NULL, &err), 0, &err,
                   "");
    code_staged_free(code);
    uint64_t second = build_of(f, "f", NULL);
    assert_int_not_equal(first, second);
    struct snapshot_manifest new = write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, second), NULL);
    keep_house(f);
    assert_true(is_there(f, &old) && is_there(f, &new));
    assert_int_equal(count_code(f), 2);
    assert_int_equal(registry_finish_build(f->base.registry, second, NULL, &err), 0);
    keep_house(f);
    assert_false(is_there(f, &old));
    assert_true(is_there(f, &new));
    assert_int_equal(count_code(f), 1);
}

/* Levels that no key finds any more: their image was replaced, or they are of another release. */
static void levels_go_with_their_image(void **state)
{
    struct fixture *f = *state;

    struct snapshot_manifest lone = write_snapshot(f, SNAPSHOT_BASE, "base-lone", NULL);
    struct snapshot_manifest base = write_snapshot(f, SNAPSHOT_BASE, "base-old", NULL);
    struct snapshot_manifest runtime = write_snapshot(f, SNAPSHOT_RUNTIME, "runtime-old", &base);
    struct snapshot_manifest child = write_snapshot(f, SNAPSHOT_FUNCTION, "mine", &runtime);
    keep_house(f);
    assert_true(is_there(f, &lone) && is_there(f, &runtime));
    add_image(f, "base", 2);
    struct snapshot_manifest next = write_snapshot(f, SNAPSHOT_BASE, "base-next", NULL);
    keep_house(f);
    assert_false(is_there(f, &lone));
    assert_true(is_there(f, &next));
    assert_true(is_there(f, &runtime) && is_there(f, &base)); /* somebody's snapshot needs them */
    fixture_expect(snapshot_store_remove(f->world->store, child.id, false, NULL), 0,
                   &(struct error){0}, "");
    keep_house(f);
    assert_false(is_there(f, &runtime) || is_there(f, &base));
}

static void damage_is_said_once_and_nothing_goes(void **state)
{
    struct fixture *f = *state;
    char path[256];

    fixture_create(&f->base, "f", "one");
    struct snapshot_manifest damaged =
        write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, build_of(f, "f", NULL)), NULL);
    struct snapshot_manifest dead = write_snapshot(f, SNAPSHOT_FUNCTION, name_of(f, 4711), NULL);
    snapshot_world_file(f->world, damaged.id, "manifest.json", path);
    assert_int_equal(chmod(path, 0600), 0);
    fixture_write(path, "{}", 2);
    keep_house(f);
    assert_non_null(strstr(said, "collect snapshots: "));
    assert_true(is_there(f, &dead));
    said[0] = '\0';
    keep_house(f);
    assert_string_equal(said, "");
    assert_int_equal(snapshot_store_remove(f->world->store, damaged.id, false, NULL), 0);
    keep_house(f);
    assert_false(is_there(f, &dead));
}

/* --- what the pool has ----------------------------------------------------------------------- */

static void use(struct fixture *f, const char *name, const char *qualifier)
{
    struct function *function = fixture_find(&f->base, name, qualifier);
    const struct function_version version = {
        .tenant = "alice",
        .build_id = function->build_id,
        .function = {.name = name, .version = function->version_text},
        .limits = {.reserved = -1, .unreserved = 100}};
    struct pool_lease lease;
    struct error err;

    assert_int_equal(instance_pool_acquire(f->pool, &version, NULL, NULL, &lease, &err), 0);
    assert_int_equal(lease.verdict, POOL_READY);
    instance_pool_release(f->pool, &lease, true);
    function_free(function);
}

static void what_was_used_is_opened_again(void **state)
{
    struct fixture *f = *state;
    const struct function_key deleted = fixture_key("h", NULL);
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;
    struct recent_builds recent;
    struct error err;

    fixture_create(&f->base, "f", "one");
    fixture_create(&f->base, "g", "two");
    fixture_create(&f->base, "h", "three");
    fixture_create(&f->base, "never", "four");
    use(f, "f", NULL);
    use(f, "h", NULL);
    use(f, "g", NULL);
    stop(f);
    assert_int_equal(recent_builds_read(f->base.state, &recent, &err), 0);
    assert_int_equal(recent.n, 3);
    assert_int_equal(recent.ids[0], build_of(f, "g", NULL));
    assert_int_equal(recent.ids[2], build_of(f, "f", NULL));
    assert_int_equal(registry_delete(f->base.registry, &deleted, &err), 0);
    start(f);
    while (counts_of(f).passes == 0 && clock_now_us() < until_us)
        poll(NULL, 0, 5);
    assert_int_equal(counts_of(f).opened, 2);
    assert_int_equal(finds, 2);
    assert_int_equal(expected, 2);
    assert_int_equal(live, 0); /* nothing runs for it */
    use(f, "g", NULL);
    assert_int_equal(finds, 2);
    assert_string_equal(said, "");
}

static void a_bad_record_is_no_harm(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        size_t n;
    } cases[] = {{"", 0},       {"7\n8\n", 2},     {"7\n8", 1},
                 {"x\n7\n", 0}, {"7\n-8\n9\n", 1}, {"99999999999999999999999\n", 0}};
    struct recent_builds recent = {.n = RECENT_MAX}, got;
    char path[128], large[4096];
    struct error err;

    snprintf(path, sizeof(path), "%s/recent", f->base.state);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fixture_write(path, cases[i].text, strlen(cases[i].text));
        assert_int_equal(recent_builds_read(f->base.state, &got, &err), 0);
        assert_int_equal(got.n, cases[i].n);
    }
    memset(large, '1', sizeof(large));
    fixture_write(path, large, sizeof(large));
    assert_int_equal(recent_builds_read(f->base.state, &got, &err), -EBADMSG);
    for (size_t i = 0; i < RECENT_MAX; i++)
        recent.ids[i] = UINT64_MAX - i;
    assert_int_equal(recent_builds_write(f->base.state, &recent, &err), 0);
    assert_int_equal(recent_builds_read(f->base.state, &got, &err), 0);
    assert_memory_equal(&got, &recent, sizeof(got));
    unlink(path);
    assert_int_equal(recent_builds_read(f->base.state, &got, &err), 0);
    assert_int_equal(got.n, 0);
}

static void a_label_is_this_registrys_own(void **state)
{
    struct fixture *f = *state;
    const struct registry *registry = f->base.registry;
    uint64_t identity = registry_identity(registry);
    char name[80];

    assert_int_equal(lambda_version_parse_label(registry, name_of(f, 12)), 12);
    assert_int_equal(strlen(name_of(f, UINT64_MAX)) <= SNAPSHOT_NAME_MAX, 1);
    assert_true(lambda_version_parse_label(registry, name_of(f, UINT64_MAX)) == UINT64_MAX);
    assert_int_equal(lambda_version_parse_label(registry, "function-0123456789abcdef"), 0);
    assert_int_equal(lambda_version_parse_label(registry, ""), 0);
    snprintf(name, sizeof(name), "function-%016" PRIx64 ".12-0", identity + 1);
    assert_int_equal(lambda_version_parse_label(registry, name), 0);
    snprintf(name, sizeof(name), "function-%016" PRIx64 ".12", identity);
    assert_int_equal(lambda_version_parse_label(registry, name), 0);
    snprintf(name, sizeof(name), "function-%016" PRIx64 ".-12-0", identity);
    assert_int_equal(lambda_version_parse_label(registry, name), 0);
    stop(f);
    fixture_close_registry(&f->base);
    fixture_open_again(&f->base);
    start(f);
    assert_true(registry_identity(f->base.registry) == identity);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(code_and_snapshots_go_with_their_build),
        CASE(a_build_goes_when_the_next_one_serves),
        CASE(levels_go_with_their_image),
        CASE(damage_is_said_once_and_nothing_goes),
        CASE(what_was_used_is_opened_again),
        CASE(a_bad_record_is_no_harm),
        CASE(a_label_is_this_registrys_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
