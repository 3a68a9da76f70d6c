/*
 * What the host's store costs: looking up and listing with 10 and with 10,000 functions, which
 * should be the same, and the queue of asynchronous events, whose every accepted event is flushed.
 *   bench_registry DIRECTORY [JSON-FILE] [FUNCTIONS]
 * DIRECTORY is where registries are made and removed again. The peer, "flush", appends 4 KiB to a
 * file and flushes it: what no durable queue can do without. All in one run.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "host/events/event_queue.h"
#include "images/image_file.h"

enum {
    FEW = 10,
    MANY_DEFAULT = 10000,
    MANY_MAX = 100000,
    LOOKUPS = 20000,
    LISTINGS = 500,
    EVENTS = 1000,
    LARGE_EVENTS = 50,
    THREADS = 8,
    FLUSHES = 500,
    SAMPLES_MAX = LOOKUPS,
};

/* Times of one thing, in nanoseconds, and what they were measured with. */
struct series {
    const char *name;
    unsigned functions;
    size_t n;
    uint64_t ns[SAMPLES_MAX];
};

struct bench {
    const char *directory;
    unsigned many;
    struct registry *registry;
    char path[PATH_MAX];
    json_t *figures;
    struct series series;
};

static int compare_ns(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;

    return (*a > *b) - (*a < *b);
}

static double percentile_us(const struct series *series, unsigned percent)
{
    return (double)series->ns[(series->n - 1) * percent / 100] / 1e3;
}

static void begin_series(struct bench *bench, const char *name, unsigned functions)
{
    bench->series.name = name;
    bench->series.functions = functions;
    bench->series.n = 0;
}

static void end_series(struct bench *bench)
{
    struct series *s = &bench->series;

    qsort(s->ns, s->n, sizeof(s->ns[0]), compare_ns);
    printf("%-28s %9u %9.1f %9.1f %9.1f\n", s->name, s->functions, percentile_us(s, 50),
           percentile_us(s, 90), percentile_us(s, 99));
    json_array_append_new(bench->figures,
                          json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f}", "name", s->name, "unit",
                                    "us", "functions", (int)s->functions, "n", (int)s->n, "p50",
                                    percentile_us(s, 50), "p90", percentile_us(s, 90), "p99",
                                    percentile_us(s, 99)));
}

static void report_rate(struct bench *bench, const char *name, unsigned n, uint64_t ns)
{
    double rate = n / ((double)ns / 1e9);

    printf("%-28s %9.0f a second\n", name, rate);
    json_array_append_new(bench->figures, json_pack("{s:s, s:s, s:i, s:f}", "name", name, "unit",
                                                    "1/s", "n", (int)n, "rate", rate));
}

/* --- a registry with functions ---------------------------------------------------------------- */

static size_t make_zip(uint8_t *zip, size_t size)
{
    static const char code[] = "def handler(event, context):\n    return event\n";
    struct archive_entry *entry = archive_entry_new();
    struct archive *archive = archive_write_new();
    size_t used = 0;

    archive_write_set_format_zip(archive);
    archive_write_set_bytes_in_last_block(archive, 1);
    archive_write_open_memory(archive, zip, size, &used);
    archive_entry_set_pathname(entry, "app.py");
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, sizeof(code) - 1);
    archive_write_header(archive, entry);
    archive_write_data(archive, code, sizeof(code) - 1);
    archive_entry_free(entry);
    archive_write_close(archive);
    archive_write_free(archive);
    return used;
}

static int add_functions(struct bench *bench, unsigned n, struct code_staged *code,
                         struct error *err)
{
    const struct text_pair environment[] = {{"STAGE", "bench"}, {"TABLE", "a-table-of-things"}};
    const struct function_settings settings = {
        .members = SETS_RUNTIME | SETS_HANDLER | SETS_ENVIRONMENT,
        .runtime = "python3.11",
        .handler = "app.handler",
        .environment = environment,
        .n_environment = ARRAY_LEN(environment),
    };
    char name[32];
    struct function_key key = {"bench", name, NULL};
    int r = 0;

    begin_series(bench, "create", n);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        uint64_t start = clock_now_ns();

        snprintf(name, sizeof(name), "function-%06u", i);
        r = registry_create_function(bench->registry, &key, &settings, code, NULL, 0, NULL, err);
        if (bench->series.n < SAMPLES_MAX)
            bench->series.ns[bench->series.n++] = clock_now_ns() - start;
    }
    return r;
}

static int add_alias(struct bench *bench, struct error *err)
{
    struct function_key key = {"bench", "function-000005", "live"};

    return registry_create_alias(bench->registry, &key,
                                 &(struct alias_change){.version = "$LATEST"}, NULL, err);
}

static int open_registry(struct bench *bench, unsigned functions, struct error *err)
{
    struct registry_options options = {.state = bench->path};
    struct tenant tenant = {.name = "bench", .account_id = "123456789012"};
    struct code_staged *code = NULL;
    uint8_t zip[4096];

    snprintf(bench->path, sizeof(bench->path), "%.4000s/bench_registry.%d", bench->directory,
             (int)getpid());
    int r = registry_open(&options, &bench->registry, err);
    if (r == 0)
        r = registry_put_tenant(bench->registry, &tenant, err);
    if (r == 0)
        r = code_store_stage(registry_code_store(bench->registry), zip, make_zip(zip, sizeof(zip)),
                             &code, err);
    if (r == 0)
        r = add_functions(bench, functions, code, err);
    code_staged_free(code);
    if (r == 0)
        end_series(bench);
    return r < 0 ? r : add_alias(bench, err);
}

static void close_registry(struct bench *bench)
{
    registry_close(bench->registry);
    bench->registry = NULL;
    file_remove_tree(bench->path, NULL);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int look_up(struct bench *bench, unsigned functions, struct error *err)
{
    char name[32];
    struct function_key key = {"bench", name, NULL};
    unsigned seed = 1;
    int r = 0;

    begin_series(bench, "look up by name", functions);
    for (unsigned i = 0; r == 0 && i < LOOKUPS; i++) {
        struct function *function = NULL;

        snprintf(name, sizeof(name), "function-%06u", (unsigned)rand_r(&seed) % functions);
        uint64_t start = clock_now_ns();
        r = registry_find(bench->registry, &key, -1, &function, err);
        bench->series.ns[bench->series.n++] = clock_now_ns() - start;
        function_free(function);
    }
    if (r == 0)
        end_series(bench);
    begin_series(bench, "look up by alias", functions);
    key = (struct function_key){"bench", "function-000005", "live"};
    for (unsigned i = 0; r == 0 && i < LOOKUPS; i++) {
        struct function *function = NULL;
        uint64_t start = clock_now_ns();

        r = registry_find(bench->registry, &key, 0.5, &function, err);
        bench->series.ns[bench->series.n++] = clock_now_ns() - start;
        function_free(function);
    }
    if (r == 0)
        end_series(bench);
    return r;
}

/* Pages of ten from a random place on: with few functions, the one page that there is. */
static int list(struct bench *bench, unsigned functions, struct error *err)
{
    unsigned seed = 2;
    int r = 0;

    begin_series(bench, "list a page of 9", functions);
    for (unsigned i = 0; r == 0 && i < LISTINGS; i++) {
        unsigned from = functions > FEW ? (unsigned)rand_r(&seed) % (functions - FEW) : 0;
        struct function_page page = {0};
        char marker[MARKER_BYTES];

        snprintf(marker, sizeof(marker), "function-%06u:0", from);
        uint64_t start = clock_now_ns();
        r = registry_list(bench->registry, "bench", false, marker, FEW - 1, &page, err);
        bench->series.ns[bench->series.n++] = clock_now_ns() - start;
        if (r == 0 && page.n != FEW - 1)
            r = error_say(err, EIO, "a page has %zu functions", page.n);
        function_page_done(&page);
    }
    if (r == 0)
        end_series(bench);
    return r;
}

/* --- the queue -------------------------------------------------------------------------------- */

static int flush_peer(struct bench *bench, struct error *err)
{
    char path[PATH_MAX + 16], block[4096] = "flush";
    int r = 0;

    snprintf(path, sizeof(path), "%s/flush", bench->path);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    begin_series(bench, "flush", bench->many);
    for (unsigned i = 0; r == 0 && i < FLUSHES; i++) {
        uint64_t start = clock_now_ns();

        if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block) || fdatasync(fd) < 0)
            r = error_set(err, errno, "flush '%s'", path);
        bench->series.ns[bench->series.n++] = clock_now_ns() - start;
    }
    close(fd);
    if (r == 0)
        end_series(bench);
    return r;
}

static int enqueue_one(struct event_queue *queue, const void *payload, size_t len,
                       struct error *err)
{
    char id[REQUEST_ID_BYTES];
    struct event_submission event = {.key = {"bench", "function-000001", NULL},
                                     .request_id = id,
                                     .payload = payload,
                                     .payload_len_bytes = len};
    int r = identity_request(id, err);

    return r < 0 ? r : event_queue_enqueue(queue, &event, err);
}

static int enqueue(struct bench *bench, struct event_queue *queue, const char *name, unsigned n,
                   size_t len, struct error *err)
{
    char *payload = malloc(len);
    int r = payload ? 0 : error_set(err, ENOMEM, "make a payload");

    begin_series(bench, name, bench->many);
    if (payload)
        memset(payload, '1', len);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        uint64_t start = clock_now_ns();

        r = enqueue_one(queue, payload, len, err);
        bench->series.ns[bench->series.n++] = clock_now_ns() - start;
    }
    free(payload);
    if (r == 0)
        end_series(bench);
    return r;
}

static void *enqueue_thread(void *opaque)
{
    struct error err = {0};
    char payload[1024];
    int r = 0;

    memset(payload, '1', sizeof(payload));
    for (unsigned i = 0; r == 0 && i < EVENTS; i++)
        r = enqueue_one(opaque, payload, sizeof(payload), &err);
    return r < 0 ? opaque : NULL;
}

static int enqueue_together(struct bench *bench, struct event_queue *queue, struct error *err)
{
    pthread_t threads[THREADS];
    uint64_t start = clock_now_ns();
    void *failed = NULL;
    unsigned n = 0;

    while (n < THREADS && pthread_create(&threads[n], NULL, enqueue_thread, queue) == 0)
        n++;
    for (unsigned i = 0; i < n; i++) {
        void *result;

        pthread_join(threads[i], &result);
        failed = result ? result : failed;
    }
    if (n < THREADS || failed)
        return error_say(err, EIO, "enqueue from %d threads", THREADS);
    report_rate(bench, "enqueue 1 KiB, 8 threads", THREADS * EVENTS, clock_now_ns() - start);
    return 0;
}

static int work_off(struct bench *bench, struct event_queue *queue, struct error *err)
{
    struct event_result result = {.outcome = EVENT_SUCCEEDED, .status = 200};
    struct event *events[16];
    uint64_t start = clock_now_ns();
    unsigned done = 0;
    size_t n = 1;
    int r = 0;

    while (r == 0 && n > 0) {
        r = event_queue_claim(queue, ARRAY_LEN(events), 60000, NULL, events, &n, NULL, err);
        for (size_t i = 0; r == 0 && i < n; i++, done++) {
            r = event_queue_finish(queue, events[i], &result, NULL, err);
            event_free(events[i]);
        }
    }
    if (r == 0)
        report_rate(bench, "claim and finish, 1 thread", done, clock_now_ns() - start);
    return r;
}

static int measure_queue(struct bench *bench, struct error *err)
{
    struct event_queue_options options = {.sole = true};
    struct event_queue *queue = NULL;
    int r = event_queue_open(registry_database(bench->registry), &options, &queue, err);

    if (r == 0)
        r = flush_peer(bench, err);
    if (r == 0)
        r = enqueue(bench, queue, "enqueue 1 KiB", EVENTS, 1024, err);
    if (r == 0)
        r = enqueue(bench, queue, "enqueue 1 MiB", LARGE_EVENTS, EVENT_PAYLOAD_MAX, err);
    if (r == 0)
        r = enqueue_together(bench, queue, err);
    if (r == 0)
        r = work_off(bench, queue, err);
    event_queue_close(queue);
    return r;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int measure(struct bench *bench, unsigned functions, struct error *err)
{
    int r = open_registry(bench, functions, err);

    if (r == 0)
        r = look_up(bench, functions, err);
    if (r == 0)
        r = list(bench, functions, err);
    if (r == 0 && functions != FEW)
        r = measure_queue(bench, err);
    close_registry(bench);
    return r;
}

static int write_json(struct bench *bench, const char *path, struct error *err)
{
    struct utsname names;

    uname(&names);
    json_t *host = json_pack("{s:s, s:s, s:i}", "kernel", names.release, "machine", names.machine,
                             "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN));
    json_t *all = json_pack("{s:o, s:O}", "host", host, "figures", bench->figures);
    int r = path && json_dump_file(all, path, JSON_INDENT(2)) < 0 ? -EIO : 0;

    json_decref(all);
    return r < 0 ? error_set(err, -r, "write '%s'", path) : 0;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.many = MANY_DEFAULT};
    struct error err = {0};

    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s DIRECTORY [JSON-FILE] [FUNCTIONS]\n", argv[0]);
        return 2;
    }
    bench.directory = argv[1];
    bench.figures = json_array();
    if (argc == 4)
        bench.many = (unsigned)strtoul(argv[3], NULL, 10);
    printf("%-28s %9s %9s %9s %9s\n", "host store", "functions", "p50 us", "p90 us", "p99 us");
    int r = bench.many <= FEW || bench.many > MANY_MAX
                ? error_say(&err, EINVAL, "FUNCTIONS must be %d to %d", FEW + 1, MANY_MAX)
                : measure(&bench, FEW, &err);
    if (r == 0)
        r = measure(&bench, bench.many, &err);
    if (r == 0)
        r = write_json(&bench, argc > 2 ? argv[2] : NULL, &err);
    json_decref(bench.figures);
    if (r < 0)
        fprintf(stderr, "bench_registry: %s\n", err.text);
    return r < 0 ? 3 : 0;
}
