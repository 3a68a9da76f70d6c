/*
 * What a restore costs, against the sequence of KVM calls that forkers of microVMs usually make.
 * The ways take turns in one run, so that all see the same machine. bench_restore STATE MONITOR
 * [COUNT] [JSON-FILE] STATE has images and at least one function's snapshot (`mayfly run` leaves
 * one). All times are from the moment something is asked for, in microseconds: plain         VM,
 * full irqchip, PIT, memory mapped copy-on-write, memslot, vCPU, first exit no shell      monitor
 * process, VM and all, then the restore shell         the restore alone: into a monitor that waits
 * with everything made
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/agent_client.h"
#include "host/identity.h"
#include "hypervisor/hypervisor.h"
#include "images/image_store.h"
#include "snapshot/snapshot_store.h"

enum {
    COUNT_DEFAULT = 50,
    COUNT_MAX = 1000,
    CODE_AT = 0x1000,
    ANSWER_MS = 30000,
};

enum figure {
    PLAIN_FIRST_EXIT,
    PLAIN_TEARDOWN,
    NO_SHELL_RESTORED,
    SHELL_RESTORED,
    SHELL_REPLIED,
    SHELL_FIRST_EXIT,
    SHELL_FIRST_RESULT,
    N_FIGURES,
};

static const char *const names[N_FIGURES] = {
    [PLAIN_FIRST_EXIT] = "plain.first_exit",     [PLAIN_TEARDOWN] = "plain.teardown",
    [NO_SHELL_RESTORED] = "no_shell.restored",   [SHELL_RESTORED] = "shell.restored",
    [SHELL_REPLIED] = "shell.replied",           [SHELL_FIRST_EXIT] = "shell.first_exit",
    [SHELL_FIRST_RESULT] = "shell.first_result",
};

struct bench {
    unsigned count;
    char directory[PATH_MAX]; /* for sockets */
    char *image;              /* owned: path of the raw root image */
    const char *monitor;
    struct snapshot_manifest manifest;
    int memory_fd, state_fd, kvm_fd;
    double us[N_FIGURES][COUNT_MAX];
};

static double us_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e3;
}

/* --- the usual way --------------------------------------------------------------------------- */

static int plain_vcpu(int kvm_fd, int vm_fd, struct error *err)
{
    AUTO_FD vcpu = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_regs regs = {.rip = CODE_AT, .rflags = 2};
    struct kvm_sregs sregs;

    if (vcpu < 0 || size <= 0)
        return error_set(err, errno, "KVM_CREATE_VCPU");
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
        return error_set(err, errno, "vCPU");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ||
        ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
        return error_set(err, errno, "run the plain VM");
    munmap(run, (size_t)size);
    return 0;
}

static int plain(struct bench *bench, unsigned i, struct error *err)
{
    static const uint8_t code[] = {0xe6, 0x10}; /* out 0x10, al */
    struct kvm_pit_config pit = {0};
    uint64_t start_ns = clock_now_ns();
    size_t bytes = (size_t)bench->manifest.memory_mib << 20;
    int vm_fd = ioctl(bench->kvm_fd, KVM_CREATE_VM, 0);

    if (vm_fd < 0 || ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000) < 0 ||
        ioctl(vm_fd, KVM_CREATE_IRQCHIP) < 0 || ioctl(vm_fd, KVM_CREATE_PIT2, &pit) < 0)
        return error_set(err, errno, "plain VM");
    uint8_t *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, bench->memory_fd, 0);
    if (memory == MAP_FAILED)
        return error_set(err, errno, "map the memory");
    memcpy(memory + CODE_AT, code, sizeof(code));
    struct kvm_userspace_memory_region region = {.memory_size = bytes,
                                                 .userspace_addr = (uintptr_t)memory};
    if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return error_set(err, errno, "memslot");
    int r = plain_vcpu(bench->kvm_fd, vm_fd, err);
    bench->us[PLAIN_FIRST_EXIT][i] = us_since(start_ns);
    start_ns = clock_now_ns();
    close(vm_fd);
    munmap(memory, bytes);
    bench->us[PLAIN_TEARDOWN][i] = us_since(start_ns);
    return r;
}

/* --- ours ------------------------------------------------------------------------------------ */

static int start_shell(const struct bench *bench, struct vm **ret_vm, struct error *err)
{
    struct vm_config config = {.monitor_path = bench->monitor,
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

static int shell(struct bench *bench, unsigned i, struct error *err)
{
    struct vm_restore_times times;
    struct vm_status status;
    struct vm *vm = NULL;
    int fd, r = start_shell(bench, &vm, err);

    if (r < 0)
        return r;
    uint64_t start_ns = clock_now_ns();
    r = hypervisor_kvm.restore(vm, bench->memory_fd, bench->state_fd, &fd, &times, err);
    bench->us[SHELL_REPLIED][i] = us_since(start_ns);
    if (r == 0)
        r = invoke(vm, fd, err);
    bench->us[SHELL_FIRST_RESULT][i] = us_since(start_ns);
    if (r == 0)
        r = hypervisor_kvm.status(vm, &status, err);
    if (r == 0) {
        bench->us[SHELL_RESTORED][i] = (double)times.restored_ns / 1e3;
        bench->us[SHELL_FIRST_EXIT][i] = (double)(status.first_exit_ns - times.began_ns) / 1e3;
    }
    hypervisor_kvm.destroy(vm);
    return r;
}

static int no_shell(struct bench *bench, unsigned i, struct error *err)
{
    struct vm_restore_times times;
    struct vm *vm = NULL;
    uint64_t start_ns = clock_now_ns();
    int fd = -1, r = start_shell(bench, &vm, err);

    if (r == 0)
        r = hypervisor_kvm.restore(vm, bench->memory_fd, bench->state_fd, &fd, &times, err);
    bench->us[NO_SHELL_RESTORED][i] = us_since(start_ns);
    fd_close_at_exit(&fd);
    hypervisor_kvm.destroy(vm);
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

static double percentile(const struct bench *bench, enum figure figure, double share)
{
    return bench->us[figure][(unsigned)(share * (bench->count - 1))]; /* sorted by then */
}

static json_t *figure_json(const struct bench *bench, enum figure figure)
{
    double plain_us = percentile(bench, PLAIN_FIRST_EXIT, 0.5);

    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:{s:f}}", "name", names[figure], "unit", "us",
                     "n", (int)bench->count, "p50", percentile(bench, figure, 0.5), "p90",
                     percentile(bench, figure, 0.9), "p99", percentile(bench, figure, 0.99),
                     "ratio_to", "plain.first_exit", percentile(bench, figure, 0.5) / plain_us);
}

static int report(struct bench *bench, const char *file)
{
    struct utsname host;
    json_t *figures = json_array();

    uname(&host);
    printf("%-22s%5s%12s%12s%12s%18s\n", "figure", "n", "p50 us", "p90 us", "p99 us",
           "p50 to plain");
    for (int f = 0; f < N_FIGURES; f++) {
        qsort(bench->us[f], bench->count, sizeof(double), compare);
        json_array_append_new(figures, figure_json(bench, (enum figure)f));
        printf("%-22s%5u%12.1f%12.1f%12.1f%18.3f\n", names[f], bench->count,
               percentile(bench, (enum figure)f, 0.5), percentile(bench, (enum figure)f, 0.9),
               percentile(bench, (enum figure)f, 0.99),
               percentile(bench, (enum figure)f, 0.5) / percentile(bench, PLAIN_FIRST_EXIT, 0.5));
    }
    json_t *all =
        json_pack("{s:{s:s, s:s, s:i}, s:o}", "host", "kernel", host.release, "machine",
                  host.machine, "memory_mib", (int)bench->manifest.memory_mib, "figures", figures);
    int r = file ? json_dump_file(all, file, JSON_INDENT(1)) : 0;
    json_decref(all);
    return r;
}

static int measure(struct bench *bench, struct error *err)
{
    int r = 0;

    for (unsigned i = 0; i < bench->count && r == 0; i++) {
        r = plain(bench, i, err);
        if (r == 0)
            r = no_shell(bench, i, err);
        if (r == 0)
            r = shell(bench, i, err);
    }
    return r;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.memory_fd = -1, .state_fd = -1};
    char directory[] = "/tmp/mayfly-bench-XXXXXX";
    struct error err = {0};

    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: bench_restore STATE MONITOR [COUNT] [JSON-FILE]\n");
        return 2;
    }
    long count = argc > 3 ? strtol(argv[3], NULL, 10) : COUNT_DEFAULT;
    bench.count = count > 0 && count <= COUNT_MAX ? (unsigned)count : COUNT_DEFAULT;
    bench.monitor = argv[2];
    bench.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (bench.kvm_fd < 0 || !mkdtemp(directory)) {
        fprintf(stderr, "bench_restore: /dev/kvm: %s\n", strerror(errno));
        return 3;
    }
    snprintf(bench.directory, sizeof(bench.directory), "%s", directory);
    int r = load_snapshot(&bench, argv[1], &err);
    if (r == 0)
        r = load_image(&bench, argv[1], &err);
    if (r == 0)
        r = measure(&bench, &err);
    if (r == 0 && report(&bench, argc > 4 ? argv[4] : NULL) != 0)
        r = error_say(&err, EIO, "write '%s'", argv[4]);
    if (r < 0)
        fprintf(stderr, "bench_restore: %s\n", err.text);
    snprintf(bench.directory, sizeof(bench.directory), "%s/console.log", directory);
    unlink(bench.directory);
    rmdir(directory);
    free(bench.image);
    return r < 0 ? 3 : 0;
}
