/*
 * How fast an image is decompressed, verification included, against `zstd -d -T0` on the same file:
 * the two take turns in one run, so that both see the same machine.
 *   bench_decompress IMAGE-FILE DIRECTORY [JSON-FILE] [ROUNDS]
 * IMAGE-FILE is an object of the image store; DIRECTORY is where both
 * write. Each round decompresses to a new file and, apart, flushes it: the store flushes what it
 * caches, zstd never does, so "flushed" measures both with the flush and the others without.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zstd.h>

#include "cli/bench_figures.h"
#include "common/clock.h"
#include "common/fd.h"
#include "images/image_codec.h"
#include "images/image_file.h"

enum { ROUNDS_DEFAULT = 15, ROUNDS_MAX = 1000 };

extern char **environ;

/* Times of one way to decompress, in microseconds, one per round. */
struct series {
    const char *name;
    uint64_t us[ROUNDS_MAX];
    double ms[ROUNDS_MAX]; /* the same, sorted, for the report */
};

enum { OURS, ZSTD, OURS_FLUSHED, ZSTD_FLUSHED, N_SERIES };

struct bench {
    const char *image;                 /* the file at rest */
    uint8_t file_sha256[SHA256_BYTES]; /* of it; the store has this as its name */
    char out[PATH_MAX];
    unsigned rounds;
    struct series series[N_SERIES];
};

static int flush(const char *path)
{
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* As image_store_raw() does it, without the store: everything is checked that it checks. */
static int run_ours(const struct bench *bench, uint64_t *ret_us, struct error *err)
{
    uint64_t start = clock_now_us();
    struct image_format format = {0};
    AUTO_FD in = open(bench->image, O_RDONLY | O_CLOEXEC);
    AUTO_FD out = open(bench->out, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (in < 0 || out < 0)
        return error_set(err, errno, "open '%s' or '%s'", bench->image, bench->out);
    int r = image_format_read(in, bench->image, &format, err);
    if (r < 0)
        return r;
    r = file_reserve(out, format.raw_bytes, err);
    if (r == 0)
        r = image_decompress(in, bench->image, &format, out,
                             &(struct image_expect){.file_sha256 = bench->file_sha256}, NULL, err);
    *ret_us = clock_now_us() - start;
    image_format_done(&format);
    return r;
}

static int run_zstd(const struct bench *bench, uint64_t *ret_us, struct error *err)
{
    char *argv[] = {
        (char *)(uintptr_t) "zstd", (char *)(uintptr_t) "-d",      (char *)(uintptr_t) "-T0",
        (char *)(uintptr_t) "-q",   (char *)(uintptr_t) "-f",      (char *)(uintptr_t)bench->image,
        (char *)(uintptr_t) "-o",   (char *)(uintptr_t)bench->out, NULL};
    uint64_t start = clock_now_us();
    pid_t pid;
    int status;
    int r = posix_spawnp(&pid, "zstd", NULL, NULL, argv, environ);

    if (r != 0)
        return error_set(err, r, "run zstd");
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return error_set(err, errno, "wait for zstd");
    *ret_us = clock_now_us() - start;
    if (status != 0)
        return error_say(err, EIO, "zstd failed on '%s'", bench->image);
    return 0;
}

static int run_round(struct bench *bench, unsigned round, struct error *err)
{
    static int (*const ways[])(const struct bench *, uint64_t *, struct error *) = {run_ours,
                                                                                    run_zstd};

    for (unsigned turn = 0; turn < 2; turn++) {
        unsigned way = (turn + round) & 1; /* who goes first changes every round */
        uint64_t us = 0;

        if (unlink(bench->out) < 0 && errno != ENOENT)
            return error_set(err, errno, "remove '%s'", bench->out);
        int r = ways[way](bench, &us, err);
        if (r < 0)
            return r;
        uint64_t start = clock_now_us();
        r = flush(bench->out);
        if (r < 0)
            return error_set(err, -r, "flush '%s'", bench->out);
        bench->series[OURS + way].us[round] = us;
        bench->series[OURS_FLUSHED + way].us[round] = us + clock_now_us() - start;
    }
    unlink(bench->out);
    return 0;
}

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

/* @peer: what ratio_to compares with; speed, so above 1 is faster than the peer. NULL: none. */
static json_t *figure(const struct series *series, unsigned n, const struct series *peer)
{
    double p50 = percentile_ms(series, n, 50);
    json_t *ratio = json_object();

    if (peer)
        json_object_set_new(ratio, peer->name, json_real(percentile_ms(peer, n, 50) / p50));
    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:o}", "name", series->name, "unit", "ms", "n",
                     (int)n, "p50", p50, "p90", percentile_ms(series, n, 90), "p99",
                     percentile_ms(series, n, 99), "ratio_to", ratio);
}

static json_t *host(void)
{
    json_t *object = bench_host_json(NULL);

    json_object_set_new(object, "libzstd", json_string(ZSTD_versionString()));
    return object;
}

static int report(struct bench *bench, const char *json_path, struct error *err)
{
    json_t *figures = json_array();
    struct stat st;

    stat(bench->image, &st);
    printf("%-28s %9s %9s %9s   speed/zstd\n", "decompress", "p50 ms", "p90 ms", "p99 ms");
    for (unsigned i = 0; i < N_SERIES; i++)
        sort(&bench->series[i], bench->rounds);
    for (unsigned i = 0; i < N_SERIES; i++) {
        const struct series *peer = i & 1 ? NULL : &bench->series[i + 1];
        const struct series *own = &bench->series[i];

        json_array_append_new(figures, figure(own, bench->rounds, peer));
        printf("%-28s %9.1f %9.1f %9.1f", own->name, percentile_ms(own, bench->rounds, 50),
               percentile_ms(own, bench->rounds, 90), percentile_ms(own, bench->rounds, 99));
        if (peer)
            printf("   %.2f",
                   percentile_ms(peer, bench->rounds, 50) / percentile_ms(own, bench->rounds, 50));
        putchar('\n');
    }
    json_t *all = json_pack("{s:o, s:I, s:o}", "host", host(), "file_bytes", (json_int_t)st.st_size,
                            "figures", figures);
    int r = json_path && json_dump_file(all, json_path, JSON_INDENT(2)) < 0 ? -EIO : 0;
    json_decref(all);
    return r < 0 ? error_set(err, -r, "write '%s'", json_path) : 0;
}

/* The digest to expect; and one run that is not counted, so that the file is in the page cache. */
static int prepare(struct bench *bench, struct error *err)
{
    AUTO_FD fd = open(bench->image, O_RDONLY | O_CLOEXEC);
    struct stat st;
    uint64_t warm_up_us;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s'", bench->image);
    int r = sha256_of_file(fd, (uint64_t)st.st_size, bench->file_sha256);
    if (r < 0)
        return error_set(err, -r, "read '%s'", bench->image);
    return run_zstd(bench, &warm_up_us, err);
}

int main(int argc, char **argv)
{
    static struct bench bench = {.rounds = ROUNDS_DEFAULT,
                                 .series = {{.name = "decompress"},
                                            {.name = "zstd -d -T0"},
                                            {.name = "decompress, flushed"},
                                            {.name = "zstd -d -T0, flushed"}}};
    struct error err = {0};
    int r = 0;

    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s IMAGE-FILE DIRECTORY [JSON-FILE] [ROUNDS]\n", argv[0]);
        return 2;
    }
    bench.image = argv[1];
    snprintf(bench.out, sizeof(bench.out), "%s/bench_decompress.%d", argv[2], (int)getpid());
    if (argc == 5)
        bench.rounds = (unsigned)strtoul(argv[4], NULL, 10);
    if (bench.rounds == 0 || bench.rounds > ROUNDS_MAX)
        r = error_say(&err, EINVAL, "ROUNDS must be 1 to %d", ROUNDS_MAX);
    if (r == 0)
        r = prepare(&bench, &err);
    for (unsigned i = 0; r == 0 && i < bench.rounds; i++)
        r = run_round(&bench, i, &err);
    unlink(bench.out);
    if (r == 0)
        r = report(&bench, argc > 3 ? argv[3] : NULL, &err);
    if (r < 0)
        fprintf(stderr, "bench_decompress: %s\n", err.text);
    return r < 0 ? 3 : 0;
}
