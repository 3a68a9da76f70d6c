/*
 * What the jail and the filters of system calls cost: the same snapshot restored with and without
 * them, in turns, so that both see the same machine.
 *   bench_jail STATE MONITOR [COUNT] [JSON-FILE]
 * STATE has images and at least one function's snapshot (`mayfly run` leaves one). Figures of each:
 * start     a shell, from nothing to waiting                                      (microseconds)
 * restored  as the monitor counts: request taken, to just before the guest runs
 * replied   as the host counts: asked, until the answer is here
 * exit      from taking the request to the guest's first exit
 * destroy   a running VM, until its process is reaped
 * private   the monitor's own memory while it waits, and after the restore         (KiB)
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "hypervisor/hypervisor.h"
#include "images/image_store.h"
#include "snapshot/snapshot_store.h"

enum { COUNT_DEFAULT = 50, COUNT_MAX = 1000, N_WAYS = 2, EXIT_PAUSE_US = 2000, EXIT_TRIES = 1000 };

enum figure { START, RESTORED, REPLIED, FIRST_EXIT, DESTROY, PRIVATE_SHELL, PRIVATE_VM, N_FIGURES };

static const char *const names[N_FIGURES] = {
    [START] = "start_us",           [RESTORED] = "restored_us",
    [REPLIED] = "replied_us",       [FIRST_EXIT] = "first_exit_us",
    [DESTROY] = "destroy_us",       [PRIVATE_SHELL] = "private_shell_kib",
    [PRIVATE_VM] = "private_vm_kib"};

static const enum vm_jail ways[N_WAYS] = {JAIL_NONE, JAIL_BEST_EFFORT};

struct bench {
    unsigned count;
    char directory[PATH_MAX];
    char *image; /* owned */
    const char *monitor;
    struct snapshot_manifest manifest;
    int memory_fd, state_fd; /* owned */
    char missing[400];       /* of the jail, here */
    double values[N_WAYS][N_FIGURES][COUNT_MAX];
};

static double us_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e3;
}

static int measure_vm(struct bench *bench, struct vm *vm, double values[N_FIGURES][COUNT_MAX],
                      unsigned i, struct error *err)
{
    struct vm_restore_times times;
    struct vm_status status;
    int fd, r = hypervisor_kvm.status(vm, &status, err);

    if (r < 0)
        return r;
    values[PRIVATE_SHELL][i] = (double)status.private_bytes / 1024;
    snprintf(bench->missing, sizeof(bench->missing), "%s", status.jail_missing);
    uint64_t asked_ns = clock_now_ns();
    r = hypervisor_kvm.restore(vm, bench->memory_fd, bench->state_fd, &fd, &times, err);
    if (r < 0)
        return r;
    values[REPLIED][i] = us_since(asked_ns);
    values[RESTORED][i] = (double)times.restored_ns / 1e3;
    close(fd);
    for (int tries = 0; r == 0 && tries < EXIT_TRIES; tries++) {
        r = hypervisor_kvm.status(vm, &status, err);
        if (r < 0 || status.end != VM_ALIVE || status.first_exit_ns > 0)
            break;
        usleep(EXIT_PAUSE_US);
    }
    if (r == 0 && (status.end != VM_ALIVE || status.first_exit_ns < times.began_ns))
        r = error_say(err, EIO, "the restored VM does not run: %s", status.end_text);
    if (r < 0)
        return r;
    values[FIRST_EXIT][i] = (double)(status.first_exit_ns - times.began_ns) / 1e3;
    values[PRIVATE_VM][i] = (double)status.private_bytes / 1024;
    return 0;
}

static int measure_one(struct bench *bench, unsigned way, unsigned i, struct error *err)
{
    const struct vm_config config = {.monitor_path = bench->monitor,
                                     .directory = bench->directory,
                                     .memory_mib = bench->manifest.memory_mib,
                                     .vcpus = bench->manifest.vcpus,
                                     .jail = ways[way],
                                     .n_disks = 1,
                                     .disks = {{.path = bench->image, .pmem = true}}};
    double(*values)[COUNT_MAX] = bench->values[way];
    uint64_t start_ns = clock_now_ns();
    struct vm *vm = NULL;
    int r = hypervisor_kvm.start(&config, &vm, err);

    if (r < 0)
        return r;
    values[START][i] = us_since(start_ns);
    r = measure_vm(bench, vm, values, i, err);
    start_ns = clock_now_ns();
    hypervisor_kvm.destroy(vm);
    values[DESTROY][i] = us_since(start_ns);
    return r;
}

/* --- what to restore ------------------------------------------------------------------------- */

static int find_function(struct snapshot_store *store, struct snapshot_manifest *ret_manifest,
                         struct error *err)
{
    AUTO_FREE struct snapshot_info *list = NULL;
    size_t n = 0;
    int r = snapshot_store_list(store, &list, &n, err);

    for (size_t i = 0; i < n && r == 0; i++) {
        if (list[i].manifest.level == SNAPSHOT_FUNCTION && !list[i].problem[0]) {
            *ret_manifest = list[i].manifest;
            return 0;
        }
    }
    return r < 0 ? r
                 : error_say(err, ENOENT, "no function's snapshot there: 'mayfly run' makes one");
}

static int load_snapshot(struct bench *bench, const char *state, struct error *err)
{
    char path[PATH_MAX];
    struct snapshot_store *store = NULL;
    AUTO_FREE uint8_t *bytes = NULL;
    size_t len = 0;

    snprintf(path, sizeof(path), "%s/snapshots", state);
    int r = snapshot_store_open(path, &store, err);
    if (r == 0)
        r = find_function(store, &bench->manifest, err);
    if (r == 0)
        r = snapshot_store_flatten(store, &bench->manifest, &bench->memory_fd, NULL, err);
    if (r == 0)
        r = snapshot_store_state(store, &bench->manifest, &bytes, &len, err);
    snapshot_store_close(store);
    if (r < 0)
        return r;
    bench->state_fd = memfd_create("state", MFD_CLOEXEC);
    r = bench->state_fd < 0 ? -errno : fd_write_all(bench->state_fd, bytes, len);
    return r < 0 ? error_set(err, -r, "take the state") : 0;
}

static int load_image(struct bench *bench, const char *state, struct error *err)
{
    char path[PATH_MAX];
    struct image_store *store = NULL;
    struct image_info info;

    snprintf(path, sizeof(path), "%s/images", state);
    int r = image_store_open(path, &store, err);
    if (r == 0)
        r = image_store_find(store, bench->manifest.root_digests[0], &info, err);
    if (r == 0)
        r = image_store_raw(store, &info, &bench->image, NULL, err);
    image_store_close(store);
    return r;
}

/* --- the report ------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double percentile(const struct bench *bench, unsigned way, unsigned figure, double share)
{
    return bench->values[way][figure][(unsigned)(share * (bench->count - 1))]; /* sorted by then */
}

static int report(struct bench *bench, const char *file)
{
    json_t *figures = json_array();

    printf("jail: %s\n%-20s%10s%12s%12s%12s%12s%12s\n",
           bench->missing[0] ? bench->missing : "whole", "figure", "n", "none p50", "jail p50",
           "difference", "none p99", "jail p99");
    for (unsigned f = 0; f < N_FIGURES; f++) {
        for (unsigned way = 0; way < N_WAYS; way++)
            qsort(bench->values[way][f], bench->count, sizeof(double), compare);
        double without = percentile(bench, 0, f, 0.5), with = percentile(bench, 1, f, 0.5);
        printf("%-20s%10u%12.1f%12.1f%+11.1f%%%12.1f%12.1f\n", names[f], bench->count, without,
               with, without > 0 ? (with / without - 1) * 100 : 0, percentile(bench, 0, f, 0.99),
               percentile(bench, 1, f, 0.99));
        json_array_append_new(figures,
                              json_pack("{s:s, s:i, s:f, s:f, s:f, s:f}", "name", names[f], "n",
                                        (int)bench->count, "none_p50", without, "jail_p50", with,
                                        "none_p99", percentile(bench, 0, f, 0.99), "jail_p99",
                                        percentile(bench, 1, f, 0.99)));
    }
    json_t *all = json_pack("{s:s, s:i, s:o}", "jail_missing", bench->missing, "memory_mib",
                            (int)bench->manifest.memory_mib, "figures", figures);
    int r = file ? json_dump_file(all, file, JSON_INDENT(1)) : 0;
    json_decref(all);
    return r;
}

static int run(struct bench *bench, const char *state, const char *file, struct error *err)
{
    int r = load_snapshot(bench, state, err);

    if (r == 0)
        r = load_image(bench, state, err);
    for (unsigned i = 0; i < bench->count && r == 0; i++)
        for (unsigned way = 0; way < N_WAYS && r == 0; way++)
            r = measure_one(bench, (way + i) % N_WAYS, i, err); /* neither is always the first */
    if (r == 0 && report(bench, file) != 0)
        r = error_say(err, EIO, "write '%s'", file);
    return r;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.memory_fd = -1, .state_fd = -1};
    char directory[] = "/tmp/mayfly-bench-XXXXXX";
    struct error err = {0};

    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: bench_jail STATE MONITOR [COUNT] [JSON-FILE]\n");
        return 2;
    }
    long count = argc > 3 ? strtol(argv[3], NULL, 10) : COUNT_DEFAULT;
    bench.count = count > 0 && count <= COUNT_MAX ? (unsigned)count : COUNT_DEFAULT;
    bench.monitor = argv[2];
    if (!mkdtemp(directory)) {
        fprintf(stderr, "bench_jail: %s\n", strerror(errno));
        return 3;
    }
    snprintf(bench.directory, sizeof(bench.directory), "%s", directory);
    sync(); /* pages of a monitor that was just linked would count as its own */
    int r = run(&bench, argv[1], argc > 4 ? argv[4] : NULL, &err);
    if (r < 0)
        fprintf(stderr, "bench_jail: %s\n", err.text);
    snprintf(bench.directory, sizeof(bench.directory), "%s/console.log", directory);
    unlink(bench.directory);
    rmdir(directory);
    free(bench.image);
    return r < 0 ? 3 : 0;
}
