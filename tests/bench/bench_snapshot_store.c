/*
 * What snapshots cost to store and to flatten: a memory of 128 MiB with 40 MiB of a real Python
 * process's pages in it, and a child of it with 3 MiB of changed pages.
 *   bench_snapshot_store DIRECTORY [JSON-FILE] [ROUNDS]
 * DIRECTORY is where a store is made and removed again. The peer, "copy", writes the 40 MiB that a
 * flatten writes into a new file and flushes it: what nobody can do without. All take turns in one
 * run, so that they see the same machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <zstd.h>

#include "cli/bench_figures.h"
#include "common/clock.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "snapshot/snapshot_store.h"

enum {
    ROUNDS_DEFAULT = 7,
    ROUNDS_MAX = 1000,
    MEMORY_MIB = 128,
    DATA_MIB = 40,
    CHANGED_MIB = 3,
    PAGES = MEMORY_MIB * SNAPSHOT_PAGES_PER_MIB,
    DATA_PAGES = DATA_MIB * SNAPSHOT_PAGES_PER_MIB,
    CHANGED_PAGES = CHANGED_MIB * SNAPSHOT_PAGES_PER_MIB,
};

extern char **environ;

static const char python_program[] =
    "import json, asyncio, email, http.client, decimal, logging, urllib.request, unittest, "
    "xml.dom, sqlite3, ssl, sys\n"
    "d = json.loads(json.dumps([{'k%d' % i: [i, i * 1.5, 'text %d' % i]} for i in range(30000)]))\n"
    "print('ready', flush=True)\n"
    "sys.stdin.read()\n";

/* Times of one thing, in microseconds, one per round. */
struct series {
    const char *name;
    uint64_t us[ROUNDS_MAX];
    double ms[ROUNDS_MAX]; /* the same, sorted, for the report */
};

enum { WRITE_BASE, FLATTEN_BASE, COPY, WRITE_CHILD, FLATTEN_CHILD, FLATTEN_CACHED, N_SERIES };

struct bench {
    char path[PATH_MAX]; /* the store's */
    unsigned rounds;
    uint8_t *donor; /* DATA_PAGES + CHANGED_PAGES real pages, none of them zero */
    int memory_fd, child_fd;
    struct snapshot_extents changed;
    struct snapshot_store *store;
    struct snapshot_manifest base, child; /* of the last round */
    struct series series[N_SERIES];
};

/* --- real memory ----------------------------------------------------------------------------- */

/* Pages that are not zero of one mapping of @mem. Returns how many there are now. */
static size_t take_pages(int mem, uint64_t start, uint64_t end, uint8_t *donor, size_t n,
                         size_t wanted)
{
    static const uint8_t zero[SNAPSHOT_PAGE_BYTES];

    for (; start < end && n < wanted; start += SNAPSHOT_PAGE_BYTES) {
        uint8_t *to = donor + n * SNAPSHOT_PAGE_BYTES;

        if (fd_pread_all(mem, to, SNAPSHOT_PAGE_BYTES, (off_t)start) < 0)
            break;
        n += memcmp(to, zero, SNAPSHOT_PAGE_BYTES) != 0;
    }
    return n;
}

static int take_memory(pid_t pid, uint8_t *donor, size_t wanted, struct error *err)
{
    char path[64], line[512], mode[8];
    unsigned long long start, end;
    size_t n = 0;

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    AUTO_FD mem = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    if (mem < 0 || !maps)
        return error_set(err, errno, "read the memory of python3");
    while (n < wanted && fgets(line, sizeof(line), maps))
        if (sscanf(line, "%llx-%llx %7s", &start, &end, mode) == 3 && mode[0] == 'r' &&
            !strstr(line, "[v"))
            n = take_pages(mem, start, end, donor, n, wanted);
    fclose(maps);
    if (n == 0)
        return error_say(err, EIO, "python3 has no memory that can be read");
    /* A smaller process is taken again from its start, a byte changed in each page. */
    for (size_t i = n; i < wanted; i++) {
        memcpy(donor + i * SNAPSHOT_PAGE_BYTES, donor + (i - n) * SNAPSHOT_PAGE_BYTES,
               SNAPSHOT_PAGE_BYTES);
        donor[i * SNAPSHOT_PAGE_BYTES + i % SNAPSHOT_PAGE_BYTES] ^= 0x55;
    }
    return 0;
}

static int find_donor(struct bench *bench, struct error *err)
{
    char *argv[] = {(char *)(uintptr_t) "python3", (char *)(uintptr_t) "-c",
                    (char *)(uintptr_t)python_program, NULL};
    posix_spawn_file_actions_t actions;
    int in[2], out[2];
    pid_t pid;
    char byte;

    bench->donor = malloc((DATA_PAGES + CHANGED_PAGES) * (size_t)SNAPSHOT_PAGE_BYTES);
    if (!bench->donor || pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
        return error_set(err, ENOMEM, "run python3");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    int r = posix_spawnp(&pid, "python3", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    if (r != 0) {
        r = error_set(err, r, "run python3");
    } else {
        r = fd_read_all(out[0], &byte, 1);
        r = r < 0 ? error_set(err, -r, "wait for python3")
                  : take_memory(pid, bench->donor, DATA_PAGES + CHANGED_PAGES, err);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    close(in[1]);
    close(out[0]);
    return r;
}

/* --- the memories ---------------------------------------------------------------------------- */

static uint32_t rnd(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Runs of one to 64 pages with gaps between them, as a guest's memory has. */
static int lay_out(struct bench *bench, struct error *err)
{
    uint32_t state = 1, page = 0;
    int r = 0;

    bench->memory_fd = memfd_create("memory", MFD_CLOEXEC);
    bench->child_fd = memfd_create("child", MFD_CLOEXEC);
    if (bench->memory_fd < 0 || bench->child_fd < 0 ||
        ftruncate(bench->memory_fd, (off_t)MEMORY_MIB << 20) < 0 ||
        ftruncate(bench->child_fd, (off_t)MEMORY_MIB << 20) < 0)
        return error_set(err, errno, "make a memory");
    for (uint32_t i = 0; r == 0 && i < DATA_PAGES; page++) {
        uint32_t run = 1 + rnd(&state) % 64;

        for (; r == 0 && run > 0 && i < DATA_PAGES; run--, i++, page++)
            r = file_pwrite_all(bench->memory_fd, bench->donor + i * (size_t)SNAPSHOT_PAGE_BYTES,
                                SNAPSHOT_PAGE_BYTES, page * (uint64_t)SNAPSHOT_PAGE_BYTES);
        page += rnd(&state) % 100;
    }
    page = 0;
    for (uint32_t i = 0; r == 0 && i < CHANGED_PAGES; page += 1 + rnd(&state) % 60) {
        uint32_t run = 1 + rnd(&state) % 8;

        for (; r == 0 && run > 0 && i < CHANGED_PAGES; run--, i++, page++) {
            r = file_pwrite_all(bench->child_fd,
                                bench->donor + (DATA_PAGES + i) * (size_t)SNAPSHOT_PAGE_BYTES,
                                SNAPSHOT_PAGE_BYTES, page * (uint64_t)SNAPSHOT_PAGE_BYTES);
            if (r == 0)
                r = snapshot_extents_add(&bench->changed, page, 1);
        }
    }
    return r < 0 ? error_set(err, -r, "make a memory") : 0;
}

/* --- what is measured ------------------------------------------------------------------------ */

static int take_snapshot(struct bench *bench, const char *name,
                         const struct snapshot_manifest *parent, int fd,
                         const struct snapshot_extents *changed, struct snapshot_manifest *made,
                         uint64_t *ret_us, struct error *err)
{
    static uint8_t state[40000]; /* about what one vCPU and its devices have */
    uint64_t start = clock_now_us();
    struct snapshot_manifest about = {.level = parent ? SNAPSHOT_FUNCTION : SNAPSHOT_RUNTIME,
                                      .memory_mib = MEMORY_MIB,
                                      .vcpus = 1,
                                      .cpu = {.vendor = "bench"}};

    snprintf(about.name, sizeof(about.name), "%s", name);
    memset(about.kernel_digest, 'a', SNAPSHOT_ID_HEX);
    if (parent)
        memcpy(about.parent, parent->id, sizeof(about.parent));
    int r = snapshot_store_write(bench->store,
                                 &(struct snapshot_write){.about = &about,
                                                          .state = state,
                                                          .state_bytes = sizeof(state),
                                                          .memory_fd = fd,
                                                          .changed = changed},
                                 made, err);
    *ret_us = clock_now_us() - start;
    return r;
}

static int flatten(struct bench *bench, const struct snapshot_manifest *manifest, uint64_t *ret_us,
                   struct error *err)
{
    uint64_t start = clock_now_us();
    AUTO_FD fd = -1;
    int r = snapshot_store_flatten(bench->store, manifest, &fd, NULL, err);

    *ret_us = clock_now_us() - start;
    return r;
}

static int copy(struct bench *bench, uint64_t *ret_us, struct error *err)
{
    char path[PATH_MAX + 8];
    uint64_t start = clock_now_us();

    snprintf(path, sizeof(path), "%s/copy", bench->path);
    AUTO_FD fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : 0;
    for (uint64_t at = 0; r == 0 && at < (uint64_t)DATA_MIB << 20; at += 1 << 18)
        r = file_pwrite_all(fd, bench->donor + at, 1 << 18, at);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    *ret_us = clock_now_us() - start;
    unlink(path);
    return r < 0 ? error_set(err, -r, "write '%s'", path) : 0;
}

static int empty_cache(struct bench *bench, struct error *err)
{
    struct snapshot_gc gc;

    snapshot_store_set_cache_limit(bench->store, 0);
    int r = snapshot_store_gc(bench->store, &gc, err);
    snapshot_store_set_cache_limit(bench->store, SNAPSHOT_CACHE_BYTES_DEFAULT);
    return r;
}

static int run_round(struct bench *bench, unsigned i, struct error *err)
{
    struct series *series = bench->series;
    int r = take_snapshot(bench, "base", NULL, bench->memory_fd, NULL, &bench->base,
                          &series[WRITE_BASE].us[i], err);

    if (r == 0)
        r = flatten(bench, &bench->base, &series[FLATTEN_BASE].us[i], err);
    if (r == 0)
        r = copy(bench, &series[COPY].us[i], err);
    if (r == 0)
        r = take_snapshot(bench, "child", &bench->base, bench->child_fd, &bench->changed,
                          &bench->child, &series[WRITE_CHILD].us[i], err);
    if (r == 0)
        r = empty_cache(bench, err);
    if (r == 0)
        r = flatten(bench, &bench->child, &series[FLATTEN_CHILD].us[i], err);
    if (r == 0)
        r = flatten(bench, &bench->child, &series[FLATTEN_CACHED].us[i], err);
    return r < 0 ? r : snapshot_store_remove(bench->store, "base", true, err);
}

/* --- report ---------------------------------------------------------------------------------- */

static void sort(struct series *series, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        series->ms[i] = (double)series->us[i] / 1000.0;
    bench_sort(series->ms, n);
}

static double percentile_ms(const struct series *series, unsigned n, unsigned percent)
{
    return bench_percentile(series->ms, n, percent);
}

static json_t *time_figure(const struct bench *bench, const struct series *series)
{
    const struct series *peer = &bench->series[COPY];
    double p50 = percentile_ms(series, bench->rounds, 50);
    json_t *ratio = json_object();

    if (series != peer)
        json_object_set_new(ratio, peer->name,
                            json_real(p50 / percentile_ms(peer, bench->rounds, 50)));
    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:o}", "name", series->name, "unit", "ms", "n",
                     (int)bench->rounds, "p50", p50, "p90",
                     percentile_ms(series, bench->rounds, 90), "p99",
                     percentile_ms(series, bench->rounds, 99), "ratio_to", ratio);
}

static json_t *size_figure(const char *name, uint64_t bytes, uint64_t raw_bytes)
{
    printf("%-34s %9.2f MB, %.2f of the raw pages\n", name, (double)bytes / 1e6,
           (double)bytes / (double)raw_bytes);
    return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:{s:f}}", "name", name, "unit", "bytes", "n",
                     1, "p50", (json_int_t)bytes, "p90", (json_int_t)bytes, "p99",
                     (json_int_t)bytes, "ratio_to", "raw pages", (double)bytes / (double)raw_bytes);
}

static json_t *host(void)
{
    json_t *object = bench_host_json(NULL);

    json_object_set_new(object, "libzstd", json_string(ZSTD_versionString()));
    return object;
}

static uint64_t at_rest(const struct snapshot_manifest *manifest)
{
    return manifest->state.bytes + manifest->pages.bytes + manifest->memory.bytes;
}

static int report(struct bench *bench, const char *json_path, struct error *err)
{
    json_t *figures = json_array();

    printf("%-34s %9s %9s %9s\n", "snapshot store", "p50 ms", "p90 ms", "p99 ms");
    for (unsigned i = 0; i < N_SERIES; i++) {
        struct series *own = &bench->series[i];

        sort(own, bench->rounds);
        printf("%-34s %9.2f %9.2f %9.2f\n", own->name, percentile_ms(own, bench->rounds, 50),
               percentile_ms(own, bench->rounds, 90), percentile_ms(own, bench->rounds, 99));
    }
    for (unsigned i = 0; i < N_SERIES; i++)
        json_array_append_new(figures, time_figure(bench, &bench->series[i]));
    json_array_append_new(
        figures, size_figure("base at rest", at_rest(&bench->base), (uint64_t)DATA_MIB << 20));
    json_array_append_new(
        figures, size_figure("child at rest", at_rest(&bench->child), (uint64_t)CHANGED_MIB << 20));
    json_t *all = json_pack("{s:o, s:o}", "host", host(), "figures", figures);
    int r = json_path && json_dump_file(all, json_path, JSON_INDENT(2)) < 0 ? -EIO : 0;
    json_decref(all);
    return r < 0 ? error_set(err, -r, "write '%s'", json_path) : 0;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.rounds = ROUNDS_DEFAULT,
                                 .memory_fd = -1,
                                 .child_fd = -1,
                                 .series = {{.name = "write 40 MiB"},
                                            {.name = "flatten 40 MiB"},
                                            {.name = "copy"},
                                            {.name = "write 3 MiB more"},
                                            {.name = "flatten both"},
                                            {.name = "flatten, cached"}}};
    struct error err = {0};

    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s DIRECTORY [JSON-FILE] [ROUNDS]\n", argv[0]);
        return 2;
    }
    snprintf(bench.path, sizeof(bench.path), "%.4000s/bench_snapshot_store.%d", argv[1],
             (int)getpid());
    if (argc == 4)
        bench.rounds = (unsigned)strtoul(argv[3], NULL, 10);
    int r = bench.rounds == 0 || bench.rounds > ROUNDS_MAX
                ? error_say(&err, EINVAL, "ROUNDS must be 1 to %d", ROUNDS_MAX)
                : snapshot_store_open(bench.path, &bench.store, &err);
    if (r == 0)
        r = find_donor(&bench, &err);
    if (r == 0)
        r = lay_out(&bench, &err);
    for (unsigned i = 0; r == 0 && i < bench.rounds; i++)
        r = run_round(&bench, i, &err);
    if (r == 0)
        r = report(&bench, argc > 2 ? argv[2] : NULL, &err);
    snapshot_store_close(bench.store);
    file_remove_tree(bench.path, NULL);
    snapshot_extents_done(&bench.changed);
    free(bench.donor);
    if (r < 0)
        fprintf(stderr, "bench_snapshot_store: %s\n", err.text);
    return r < 0 ? 3 : 0;
}
