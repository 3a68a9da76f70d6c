/*
 * The kvm driver: one mayfly-vmm process a VM, told what to do over its control socket.
 * Process: the host's. Trusts its caller; trusts neither the monitor nor the guest.
 *
 * Invariant: every file a monitor uses is opened here and passed as a descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "cgroup.h"
#include "hypervisor.h"
#include "monitor_client.h"
#include "monitor_memory.h"
#include "vsock_listen.h"

enum {
    AGENT_PORT = 1024,
    GUEST_CID = 3, /* every guest's: a vsock ends in its own monitor, none can meet another */
    START_TIMEOUT_MS = 30000,
    REQUEST_TIMEOUT_MS = 5000,
    SNAPSHOT_TIMEOUT_MS = 120000,
    FREEZE_POLL_MS = 2,
    CONSOLE_LIMIT_BYTES = 16 * 1024 * 1024,
    FIXED_FDS = 5, /* /dev/kvm, kernel, console, vsock listener, the agent's stream */
};

struct vm {
    struct jail *jail;             /* owned; outlives the client */
    struct monitor_client *client; /* owned */
    int agent;                     /* owned: our end of the agent's stream; -1: given away */
    uint32_t memory_mib;
    char *vsock_path; /* owned; the socket there is ours to unlink */
};

static int open_kvm(struct error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        return fd;
    if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
        return error_say(err, errno,
                         "no /dev/kvm: load the module (modprobe kvm_intel or kvm_amd) and switch "
                         "on VT-x/AMD-V in the firmware, or nested virtualisation in the "
                         "hypervisor below ('mayfly doctor' says more)");
    if (errno == EACCES || errno == EPERM)
        return error_say(err, errno,
                         "no permission on /dev/kvm: add your user to the group kvm (usermod -aG "
                         "kvm USER, then log in again) or run as root");
    return error_set(err, errno, "open /dev/kvm");
}

/* Opens what a VM reads: a regular file, or it is refused. */
static int open_input(const char *what, const char *path, struct error *err)
{
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open %s '%s'", what, path);
    if (!S_ISREG(st.st_mode))
        return error_say(err, EINVAL, "%s '%s' is not a file", what, path);
    return fd_steal(&fd);
}

/* No link is followed: what it leads to is not ours to empty. */
static int open_console(const struct vm_config *config, struct error *err)
{
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW;
    int fd;

    if (config->console_path) {
        fd = open(config->console_path, flags | O_TRUNC, 0600);
        return fd < 0 ? error_set(err, errno, "open the console file '%s'", config->console_path)
                      : fd;
    }
    AUTO_FD directory = open(config->directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
        return error_set(err, errno, "open the VM's directory '%s'", config->directory);
    AUTO_FD file = openat(directory, "console.log", flags, 0600);
    struct stat st;
    if (file < 0 || fstat(file, &st) < 0)
        return error_set(err, errno, "open '%s/console.log'", config->directory);
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        return error_say(err, EPERM, "'%s/console.log' is a link, or no file", config->directory);
    if (ftruncate(file, 0) < 0)
        return error_set(err, errno, "empty '%s/console.log'", config->directory);
    return fd_steal(&file);
}

/* mayfly-vmm beside the running program, unless the caller names another. */
static int find_monitor(const struct vm_config *config, char *path, size_t size, struct error *err)
{
    char self[PATH_MAX];

    if (config->monitor_path) {
        snprintf(path, size, "%s", config->monitor_path);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0)
        return error_set(err, errno, "find the running program's directory");
    self[n] = '\0';
    if ((size_t)snprintf(path, size, "%s/mayfly-vmm", dirname(self)) >= size)
        return error_say(err, ENAMETOOLONG, "the monitor's path is too long");
    return 0;
}

/* The descriptors that go with Start; all owned. */
struct start_fds {
    size_t n;
    int fds[FIXED_FDS + VM_MAX_DISKS];
};

static void start_fds_done(struct start_fds *set)
{
    for (size_t i = 0; i < set->n; i++)
        close(set->fds[i]);
}

static int add_fd(struct start_fds *set, int fd)
{
    if (fd < 0)
        return fd;
    set->fds[set->n++] = fd;
    return 0;
}

/* Both ends of the agent's stream are made here: a monitor in an empty root can connect nowhere. */
static int add_agent_stream(struct vm *vm, struct start_fds *set, struct error *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(err, errno, "make the agent's connection");
    vm->agent = pair[0];
    return add_fd(set, pair[1]);
}

/* In the order that control.proto gives. */
static int open_start_fds(struct vm *vm, const struct vm_config *config, struct start_fds *set,
                          struct error *err)
{
    int r = add_fd(set, open_kvm(err));

    if (r == 0)
        r = add_fd(set, open_console(config, err));
    if (r == 0)
        r = add_fd(set, vsock_listen(vm->vsock_path, err));
    if (r == 0 && config->kernel_path)
        r = add_fd(set, open_input("the kernel", config->kernel_path, err));
    for (size_t i = 0; r == 0 && i < config->n_disks; i++)
        r = add_fd(set, open_input("the image", config->disks[i].path, err));
    return r < 0 ? r : add_agent_stream(vm, set, err);
}

static char *text_argument(const char *text)
{
    return (char *)(uintptr_t)text; /* protobuf-c wants non-const text, but only reads it */
}

static int send_start(struct vm *vm, const struct vm_config *config, const struct start_fds *set,
                      struct error *err)
{
    Mayfly__Monitor__Start start;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Disk disks[VM_MAX_DISKS];
    Mayfly__Monitor__Disk *disk_pointers[VM_MAX_DISKS];
    Mayfly__Monitor__Reply *reply = NULL;
    uint32_t agent_port = AGENT_PORT;

    mayfly__monitor__start__init(&start);
    for (size_t i = 0; i < config->n_disks; i++) {
        mayfly__monitor__disk__init(&disks[i]);
        disks[i].kind = config->disks[i].pmem ? MAYFLY__MONITOR__DISK__KIND__PMEM
                                              : MAYFLY__MONITOR__DISK__KIND__BLOCK;
        disks[i].read_only = true;
        disk_pointers[i] = &disks[i];
    }
    start.memory_mib = config->memory_mib;
    start.vcpus = config->vcpus;
    start.command_line = text_argument(config->command_line ? config->command_line : "");
    start.n_disks = config->n_disks;
    start.disks = disk_pointers;
    start.cpu_template = text_argument(config->cpu_template ? config->cpu_template : "");
    start.console_limit_bytes = CONSOLE_LIMIT_BYTES;
    start.guest_cid = GUEST_CID;
    start.n_host_ports = 1;
    start.host_ports = &agent_port;
    start.shell = config->kernel_path == NULL;
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_START;
    request.start = &start;
    int r = monitor_client_request(vm->client, &request, set->fds, set->n, START_TIMEOUT_MS, &reply,
                                   err);
    if (r == 0)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static void kvm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    monitor_client_close(vm->client);
    jail_free(vm->jail);
    fd_close_at_exit(&vm->agent);
    if (vm->vsock_path)
        unlink(vm->vsock_path);
    free(vm->vsock_path);
    free(vm);
}

static int name_socket(struct vm *vm, const char *directory, struct error *err)
{
    if (asprintf(&vm->vsock_path, "%s/vsock.sock", directory) < 0) {
        vm->vsock_path = NULL;
        return error_set(err, ENOMEM, "name the VM's socket");
    }
    return 0;
}

/* Everything of start() that may fail half-way; kvm_start() cleans up behind it. */
static int build(struct vm *vm, const struct vm_config *config, struct start_fds *set,
                 struct error *err)
{
    char monitor[PATH_MAX], name[NAME_MAX + 1];
    const char *slash = strrchr(config->directory, '/');
    int r = name_socket(vm, config->directory, err);

    if (r == 0)
        r = find_monitor(config, monitor, sizeof(monitor), err);
    if (r == 0)
        r = open_start_fds(vm, config, set, err);
    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "%s", slash ? slash + 1 : config->directory);
    const struct jail_config jail = {.mode = config->jail,
                                     .name = name,
                                     .memory_mib = config->memory_mib,
                                     .cpu_mib = config->cpu_mib,
                                     .vcpus = config->vcpus,
                                     .cpu = config->cpu,
                                     .seccomp_trap = config->seccomp_trap,
                                     .is_behind = !config->kernel_path};
    r = jail_new(&jail, &vm->jail, err);
    if (r == 0)
        r = monitor_client_open(monitor, name, vm->jail, &vm->client, err);
    if (r == 0)
        r = send_start(vm, config, set, err);
    return r;
}

static int kvm_start(const struct vm_config *config, struct vm **ret_vm, struct error *err)
{
    struct start_fds set __attribute__((cleanup(start_fds_done))) = {.n = 0};
    struct vm *vm;
    int r;

    if (config->n_disks > VM_MAX_DISKS)
        return error_say(err, EINVAL, "a VM has at most %d disks", VM_MAX_DISKS);
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return error_set(err, ENOMEM, "make a VM");
    vm->agent = -1;
    vm->memory_mib = config->memory_mib;
    r = build(vm, config, &set, err);
    if (r < 0) {
        kvm_destroy(vm);
        return r;
    }
    *ret_vm = vm;
    return 0;
}

/* The stream is there from the start: what tells that the agent has it is its first word, or the
 * stream's end. */
static int kvm_accept_agent(struct vm *vm, uint64_t timeout_ms, int interrupt_fd, int *ret_fd,
                            struct error *err)
{
    uint64_t deadline_ns = clock_now_ns() + timeout_ms * 1000000u;
    struct pollfd fds[] = {{.fd = vm->agent, .events = POLLIN},
                           {.fd = monitor_client_fd(vm->client), .events = POLLIN},
                           {.fd = interrupt_fd, .events = POLLIN}};

    if (vm->agent < 0)
        return error_say(err, EALREADY, "the agent's connection was taken before");
    for (;;) {
        uint64_t now = clock_now_ns();

        if (now >= deadline_ns)
            return error_say(err, ETIMEDOUT, "the guest's agent did not answer within %.0f s",
                             (double)timeout_ms / 1000.0);
        int n = poll(fds, 3, (int)((deadline_ns - now) / 1000000u + 1));
        if (n < 0 && errno != EINTR)
            return error_set(err, errno, "wait for the guest's agent");
        if (n <= 0)
            continue;
        if (fds[2].revents)
            return error_say(err, EINTR, "interrupted");
        monitor_client_poll(vm->client);
        if (monitor_client_end(vm->client, NULL) != VM_ALIVE)
            return monitor_client_say_end(vm->client, err);
        if (fds[0].revents & POLLIN) {
            *ret_fd = fd_steal(&vm->agent);
            return 0;
        }
    }
}

static int kvm_connect(struct vm *vm, uint32_t port, int *ret_fd, struct error *err)
{
    int fd = vsock_connect(vm->vsock_path, port, REQUEST_TIMEOUT_MS, err);

    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

static int simple_request(struct vm *vm, const Mayfly__Monitor__Request *request, struct error *err)
{
    Mayfly__Monitor__Reply *reply = NULL;
    int r = monitor_client_request(vm->client, request, NULL, 0, REQUEST_TIMEOUT_MS, &reply, err);

    if (r == 0)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static int kvm_pause(struct vm *vm, struct error *err)
{
    Mayfly__Monitor__Pause pause = MAYFLY__MONITOR__PAUSE__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;

    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_PAUSE;
    request.pause = &pause;
    return simple_request(vm, &request, err);
}

static int kvm_freeze(struct vm *vm, uint64_t timeout_ms, struct error *err)
{
    Mayfly__Monitor__Pause pause = MAYFLY__MONITOR__PAUSE__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    uint64_t deadline_ns = clock_now_ns() + timeout_ms * 1000000u;
    int r;

    pause.at_freeze_point = true;
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_PAUSE;
    request.pause = &pause;
    for (;;) {
        r = simple_request(vm, &request, err);
        if (r != -EAGAIN)
            return r;
        if (clock_now_ns() >= deadline_ns)
            return error_say(err, ETIMEDOUT,
                             "the guest did not come to its freeze point: are its kernel and root "
                             "image this release's ('make assets')?");
        poll(NULL, 0, FREEZE_POLL_MS);
    }
}

static void kvm_prefer(struct vm *vm)
{
    jail_prefer(vm->jail);
}

static int kvm_resume(struct vm *vm, struct error *err)
{
    Mayfly__Monitor__Resume resume = MAYFLY__MONITOR__RESUME__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;

    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_RESUME;
    request.resume = &resume;
    jail_room_back(vm->jail);
    return simple_request(vm, &request, err);
}

/* Writing out a guest of many GiB takes its time. */
static int kvm_snapshot(struct vm *vm, int memory_fd, int state_fd, struct error *err)
{
    Mayfly__Monitor__Snapshot snapshot = MAYFLY__MONITOR__SNAPSHOT__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Reply *reply = NULL;
    AUTO_FD pagemap = -1;
    int r = monitor_memory_open_pagemap(monitor_client_pid(vm->client), &pagemap, err);

    if (r < 0)
        return r;
    r = jail_room_for_file(vm->jail, (uint64_t)vm->memory_mib << 20, err);
    if (r < 0)
        return r;
    const int fds[] = {memory_fd, state_fd, pagemap};
    snapshot.kept_host_port = AGENT_PORT;
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_SNAPSHOT;
    request.snapshot = &snapshot;
    r = monitor_client_request(vm->client, &request, fds, 3, SNAPSHOT_TIMEOUT_MS, &reply, err);
    if (r == 0)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static int kvm_restore(struct vm *vm, int memory_fd, int state_fd, int *ret_agent_fd,
                       struct vm_restore_times *ret_times, struct error *err)
{
    Mayfly__Monitor__Restore restore = MAYFLY__MONITOR__RESTORE__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Reply *reply = NULL;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(err, errno, "make the agent's connection");
    AUTO_FD ours = pair[0];
    AUTO_FD theirs = pair[1];
    const int fds[] = {memory_fd, state_fd, theirs};
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_RESTORE;
    request.restore = &restore;
    int r = monitor_client_request(vm->client, &request, fds, 3, REQUEST_TIMEOUT_MS, &reply, err);
    if (r < 0)
        return r;
    if (reply->restore) {
        *ret_times = (struct vm_restore_times){.began_ns = reply->restore->began_ns,
                                               .map_ns = reply->restore->map_ns,
                                               .restored_ns = reply->restore->restored_ns};
        *ret_agent_fd = fd_steal(&ours);
    } else {
        r = error_say(err, EPROTO, "the monitor answered a restore without its times");
    }
    mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static int kvm_working_set(struct vm *vm, int fd, struct error *err)
{
    Mayfly__Monitor__WorkingSet wanted = MAYFLY__MONITOR__WORKING_SET__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Reply *reply = NULL;
    AUTO_FD pagemap = -1;
    int r = monitor_memory_open_pagemap(monitor_client_pid(vm->client), &pagemap, err);

    if (r < 0)
        return r;
    const int fds[] = {fd, pagemap};
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_WORKING_SET;
    request.working_set = &wanted;
    r = monitor_client_request(vm->client, &request, fds, 2, REQUEST_TIMEOUT_MS, &reply, err);
    if (r == 0)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

/* How a dead VM ended. Returns whether it is dead. */
static bool status_of_dead(struct vm *vm, struct vm_status *status)
{
    const char *text;
    enum vm_end end = monitor_client_end(vm->client, &text);

    if (end == VM_ALIVE)
        return false;
    *status = (struct vm_status){.end = end};
    snprintf(status->end_text, sizeof(status->end_text), "%s", text);
    return true;
}

/* Of all threads of @pid, those of its vCPUs included; 0 if it cannot be told. */
static uint64_t cpu_time_us(pid_t pid)
{
    struct timespec used;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000u + (uint64_t)used.tv_nsec / 1000u;
}

static int kvm_status(struct vm *vm, struct vm_status *ret_status, struct error *err)
{
    Mayfly__Monitor__Status status = MAYFLY__MONITOR__STATUS__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Reply *reply = NULL;

    monitor_client_poll(vm->client);
    if (status_of_dead(vm, ret_status))
        return 0;
    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_STATUS;
    request.status = &status;
    int r = monitor_client_request(vm->client, &request, NULL, 0, REQUEST_TIMEOUT_MS, &reply, err);
    if (status_of_dead(vm, ret_status)) {
        r = 0;
    } else if (r == 0 && !reply->status) {
        r = error_say(err, EPROTO, "the monitor answered without its status");
    } else if (r == 0) {
        struct monitor_memory memory;

        monitor_memory_read(monitor_client_pid(vm->client), (uint64_t)vm->memory_mib << 20,
                            &memory);
        *ret_status = (struct vm_status){.end = VM_ALIVE,
                                         .emulates_supervisor = reply->status->emulates_supervisor,
                                         .create_us = reply->status->vm_create_us,
                                         .kernel_load_us = reply->status->kernel_load_us,
                                         .boot_tsc = reply->status->boot_tsc,
                                         .tsc_khz = reply->status->tsc_khz,
                                         .first_exit_ns = reply->status->first_exit_ns,
                                         .cpu_us = cpu_time_us(monitor_client_pid(vm->client)),
                                         .private_bytes = memory.own_bytes,
                                         .guest_bytes = memory.guest_bytes};
    }
    if (r == 0)
        snprintf(ret_status->jail_missing, sizeof(ret_status->jail_missing), "%s",
                 jail_missing(vm->jail));
    if (reply)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static int kvm_sweep(struct error *err)
{
    unsigned left = 0;
    int r = cgroup_sweep("/proc/self/mountinfo", &left, err);

    if (r == 0 && left > 0)
        r = error_say(err, EBUSY,
                      "%u control groups of VMs whose host was killed cannot be removed: something "
                      "in them does not end",
                      left);
    return r;
}

static int kvm_end_fd(struct vm *vm)
{
    return monitor_client_fd(vm->client);
}

const struct hypervisor_ops hypervisor_kvm = {
    .name = "kvm",
    .start = kvm_start,
    .accept_agent = kvm_accept_agent,
    .connect = kvm_connect,
    .pause = kvm_pause,
    .resume = kvm_resume,
    .freeze = kvm_freeze,
    .snapshot = kvm_snapshot,
    .restore = kvm_restore,
    .prefer = kvm_prefer,
    .working_set = kvm_working_set,
    .status = kvm_status,
    .end_fd = kvm_end_fd,
    .sweep = kvm_sweep,
    .destroy = kvm_destroy,
};
