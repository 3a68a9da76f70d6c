/*
 * Does it pay to read a recorded working set ahead? bench_working_set STATE MONITOR [COUNT]
 * STATE has images and a function's snapshot (`mayfly run` leaves one); the flattened memory is
 * copied there to a file that this program may evict from the page cache at will. Ways take turns
 * in one run. Times are from asking for an instance (without a waiting shell) to its first result;
 * differences are taken round by round, as a busy machine is the same for neighbours.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/instance/agent_client.h"
#include "host/instance/identity.h"
#include "hypervisor/hypervisor.h"
#include "images/image_store.h"
#include "snapshot/snapshot_store.h"

enum { COUNT_DEFAULT = 20, COUNT_MAX = 1000, ANSWER_MS = 60000 };

enum way { HOT, HOT_AHEAD, COLD, COLD_AHEAD, N_WAYS };

static const struct {
    const char *name;
    bool is_cold, reads_ahead;
    enum way against;
} ways[N_WAYS] = {[HOT] = {"hot", false, false, HOT},
                  [HOT_AHEAD] = {"hot, read ahead", false, true, HOT},
                  [COLD] = {"cold", true, false, COLD},
                  [COLD_AHEAD] = {"cold, read ahead", true, true, COLD}};

enum figure { RESTORED, FIRST_RESULT, READ_AHEAD, N_FIGURES };

struct bench {
    unsigned count;
    const char *monitor;
    char directory[PATH_MAX], memory_path[PATH_MAX];
    char *image;                  /* owned */
    struct snapshot_store *store; /* owned */
    struct snapshot_manifest manifest;
    int memory_fd, state_fd;
    double us[N_WAYS][N_FIGURES][COUNT_MAX];
};

static double us_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e3;
}

/* --- one instance ---------------------------------------------------------------------------- */

static int start_shell(const struct bench *bench, struct vm **ret_vm, struct error *err)
{
    const struct vm_config config = {.monitor_path = bench->monitor,
                                     .directory = bench->directory,
                                     .memory_mib = bench->manifest.memory_mib,
                                     .vcpus = bench->manifest.vcpus,
                                     .n_disks = 1,
                                     .disks = {{.path = bench->image, .pmem = true}}};

    return hypervisor_kvm.start(&config, ret_vm, err);
}

static int invoke(struct vm *vm, int fd, struct error *err)
{
    char request[REQUEST_ID_BYTES], id[INSTANCE_ID_BYTES];
    struct agent_client *client = NULL;
    struct agent_result result;
    int r = identity_request(request, err);

    if (r == 0)
        r = identity_instance(id, err);
    if (r == 0)
        r = agent_client_new(fd, hypervisor_kvm.end_fd(vm), -1, NULL, NULL, &client, err);
    if (r < 0)
        return r;
    const struct agent_rebirth rebirth = {.instance_id = id, .hostname = id};
    const struct agent_event event = {.request_id = request,
                                      .data = "{}",
                                      .len_bytes = 2,
                                      .timeout_ms = ANSWER_MS,
                                      .rebirth = &rebirth};
    r = agent_client_invoke(client, &event, ANSWER_MS, ANSWER_MS, &result, err);
    if (r == 0)
        agent_result_done(&result);
    agent_client_free(client);
    return r;
}

/* The rest of it, from the shell to the result; *vm lives on. */
static int restore(const struct bench *bench, struct vm **vm, struct vm_restore_times *times,
                   struct error *err)
{
    int fd, r = start_shell(bench, vm, err);

    if (r == 0)
        r = hypervisor_kvm.restore(*vm, bench->memory_fd, bench->state_fd, &fd, times, err);
    return r < 0 ? r : invoke(*vm, fd, err);
}

static int measure_one(struct bench *bench, enum way way, unsigned i, struct error *err)
{
    double *restored = bench->us[way][RESTORED], *ahead = bench->us[way][READ_AHEAD];
    struct vm_restore_times times = {0};
    struct vm *vm = NULL;

    if (ways[way].is_cold)
        posix_fadvise(bench->memory_fd, 0, 0, POSIX_FADV_DONTNEED);
    uint64_t start_ns = clock_now_ns();
    if (ways[way].reads_ahead)
        snapshot_store_read_ahead(bench->store, &bench->manifest, bench->memory_fd);
    ahead[i] = us_since(start_ns);
    int r = restore(bench, &vm, &times, err);
    bench->us[way][FIRST_RESULT][i] = us_since(start_ns);
    restored[i] = (double)times.restored_ns / 1e3;
    hypervisor_kvm.destroy(vm);
    return r;
}

/* --- what is restored ------------------------------------------------------------------------ */

static int find_function(struct bench *bench, struct error *err)
{
    AUTO_FREE struct snapshot_info *list = NULL;
    size_t n = 0;
    int r = snapshot_store_list(bench->store, &list, &n, err);

    for (size_t i = 0; i < n && r == 0; i++)
        if (list[i].manifest.level == SNAPSHOT_FUNCTION && !list[i].problem[0]) {
            bench->manifest = list[i].manifest;
            return 0;
        }
    return r < 0 ? r
                 : error_say(err, ENOENT, "no function's snapshot there: 'mayfly run' makes one");
}

/* Data where the cached file has data, holes where it has holes. */
static int copy_memory(struct bench *bench, int from, struct error *err)
{
    const uint32_t n_pages = bench->manifest.memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB;
    struct snapshot_extents data;
    int r = snapshot_extents_of_file(from, n_pages, &data, err);

    if (r < 0)
        return r;
    bench->memory_fd = open(bench->memory_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (bench->memory_fd < 0 ||
        ftruncate(bench->memory_fd, (off_t)n_pages * SNAPSHOT_PAGE_BYTES) < 0)
        r = error_set(err, errno, "make '%s'", bench->memory_path);
    for (size_t i = 0; i < data.n && r == 0; i++) {
        off_t at = (off_t)data.items[i].first * SNAPSHOT_PAGE_BYTES, end = at;

        end += (off_t)data.items[i].n * SNAPSHOT_PAGE_BYTES;
        lseek(bench->memory_fd, at, SEEK_SET);
        while (at < end && r == 0) {
            off64_t source = at;
            ssize_t n =
                copy_file_range(from, &source, bench->memory_fd, NULL, (size_t)(end - at), 0);

            r = n <= 0 ? error_set(err, n < 0 ? errno : EIO, "copy the memory") : 0;
            at += n > 0 ? n : 0;
        }
    }
    snapshot_extents_done(&data);
    if (r == 0 && fsync(bench->memory_fd) < 0)
        r = error_set(err, errno, "copy the memory");
    return r;
}

static int load(struct bench *bench, const char *state, struct error *err)
{
    struct image_store *images = NULL;
    AUTO_FREE uint8_t *bytes = NULL;
    struct image_info info;
    char path[PATH_MAX];
    AUTO_FD memory = -1;
    size_t len = 0;

    snprintf(path, sizeof(path), "%s/snapshots", state);
    int r = snapshot_store_open(path, &bench->store, err);
    if (r == 0)
        r = find_function(bench, err);
    if (r == 0)
        r = snapshot_store_flatten(bench->store, &bench->manifest, &memory, NULL, err);
    if (r == 0)
        r = copy_memory(bench, memory, err);
    if (r == 0)
        r = snapshot_store_state(bench->store, &bench->manifest, &bytes, &len, err);
    if (r < 0)
        return r;
    bench->state_fd = memfd_create("state", MFD_CLOEXEC);
    r = bench->state_fd < 0 ? -errno : fd_write_all(bench->state_fd, bytes, len);
    if (r < 0)
        return error_set(err, -r, "take the state");
    snprintf(path, sizeof(path), "%s/images", state);
    r = image_store_open(path, &images, err);
    if (r == 0)
        r = image_store_find(images, bench->manifest.root_digests[0], &info, err);
    if (r == 0)
        r = image_store_raw(images, &info, &bench->image, NULL, err);
    image_store_close(images);
    return r;
}

/* --- recording ------------------------------------------------------------------------------- */

/* What one run touches; *ret_pages is owned. The monitor is ours, so its list is believed. */
static int record(struct bench *bench, struct snapshot_extents *ret_pages, struct error *err)
{
    const uint32_t n_pages = bench->manifest.memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB;
    AUTO_FD fd = memfd_create("pages", MFD_CLOEXEC);
    AUTO_FREE uint8_t *list = NULL;
    struct vm_restore_times times;
    struct vm *vm = NULL;
    int r = restore(bench, &vm, &times, err);

    if (r == 0)
        r = hypervisor_kvm.working_set(vm, fd, err);
    hypervisor_kvm.destroy(vm);
    off_t len = r == 0 ? lseek(fd, 0, SEEK_END) : 0;
    list = malloc((size_t)len + 1);
    if (r == 0 && (!list || fd_pread_all(fd, list, (size_t)len, 0) < 0))
        r = error_set(err, ENOMEM, "take the working set");
    return r < 0 ? r : snapshot_extents_parse(list, (size_t)len, n_pages, "list", ret_pages, err);
}

/* Records twice, says how alike the two are, keeps the first. */
static int learn(struct bench *bench, struct error *err)
{
    struct snapshot_extents one = {0}, two = {0}, more = {0};
    int r = record(bench, &one, err);

    if (r == 0)
        r = record(bench, &two, err);
    if (r == 0 && snapshot_extents_subtract(&two, &one, &more) < 0)
        r = error_set(err, ENOMEM, "compare");
    if (r == 0)
        r = snapshot_store_set_working_set(bench->store, &bench->manifest, &one, err);
    if (r == 0)
        printf("working set: %u pages in %zu runs; a second run touched %u, %u of them new\n",
               snapshot_extents_pages(&one), one.n, snapshot_extents_pages(&two),
               snapshot_extents_pages(&more));
    snapshot_extents_done(&one);
    snapshot_extents_done(&two);
    snapshot_extents_done(&more);
    return r;
}

/* --- the report ------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double percentile(const double *values, unsigned n, double share)
{
    double sorted[COUNT_MAX];

    memcpy(sorted, values, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), compare);
    return sorted[(unsigned)(share * (n - 1))];
}

static void report(const struct bench *bench)
{
    double difference[COUNT_MAX];
    const unsigned n = bench->count;

    printf("%-18s%5s%14s%12s%14s%14s   %s\n", "us", "n", "read ahead", "restored", "result p10",
           "result p50", "result, round by round: p25 p50 p75");
    for (int way = 0; way < N_WAYS; way++) {
        const double *result = bench->us[way][FIRST_RESULT];

        for (unsigned i = 0; i < n; i++)
            difference[i] = result[i] - bench->us[ways[way].against][FIRST_RESULT][i];
        printf("%-18s%5u%14.0f%12.0f%14.0f%14.0f   %+9.0f %+9.0f %+9.0f\n", ways[way].name, n,
               percentile(bench->us[way][READ_AHEAD], n, 0.5),
               percentile(bench->us[way][RESTORED], n, 0.5), percentile(result, n, 0.1),
               percentile(result, n, 0.5), percentile(difference, n, 0.25),
               percentile(difference, n, 0.5), percentile(difference, n, 0.75));
    }
}

int main(int argc, char **argv)
{
    static struct bench bench = {.memory_fd = -1, .state_fd = -1};
    char directory[] = "/tmp/mayfly-bench-XXXXXX";
    struct error err = {0};

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: bench_working_set STATE MONITOR [COUNT]\n");
        return 2;
    }
    long count = argc > 3 ? strtol(argv[3], NULL, 10) : COUNT_DEFAULT;
    bench.count = count > 0 && count <= COUNT_MAX ? (unsigned)count : COUNT_DEFAULT;
    bench.monitor = argv[2];
    if (!mkdtemp(directory))
        return 3;
    snprintf(bench.directory, sizeof(bench.directory), "%s", directory);
    /* Beside the real one: a file system in memory would have nothing to read ahead. */
    snprintf(bench.memory_path, sizeof(bench.memory_path), "%s/snapshots/bench.mem", argv[1]);
    int r = load(&bench, argv[1], &err);
    if (r == 0)
        r = learn(&bench, &err);
    for (unsigned i = 0; i < bench.count && r == 0; i++)
        for (int way = 0; way < N_WAYS && r == 0; way++)
            r = measure_one(&bench, (enum way)way, i, &err);
    if (r == 0)
        report(&bench);
    else
        fprintf(stderr, "bench_working_set: %s\n", err.text);
    unlink(bench.memory_path);
    snprintf(bench.directory, sizeof(bench.directory), "%s/console.log", directory);
    unlink(bench.directory);
    rmdir(directory);
    snapshot_store_close(bench.store);
    free(bench.image);
    return r < 0 ? 3 : 0;
}
