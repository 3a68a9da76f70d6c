/*
 * The parent's half of a jail: see jail.h. Process: the host's. Trusts its arguments, nothing of
 * the monitor. What could not be had is collected in one line of text, and shown by whoever starts
 * VMs.
 */
#include "jail.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "common/fd.h"
#include "jail_uid.h"
#include "monitor_spawn.h"

enum {
    MIB = 1 << 20,
    /* Of the monitor's own and of the kernel for it: page tables of a guest of 1 GiB are 4 MiB, the
     * page cache that its image and snapshot bring in gives way. */
    MEMORY_OVERHEAD_BYTES = 64 * MIB,
    MEMORY_OVERHEAD_SHARE = 64, /* of guest memory */
    /* 1,023 vsock streams and what a monitor has open besides. */
    DESCRIPTORS = 1280,
    /* Besides vCPUs: its main thread, and a kernel worker for each of two VMs (the first is a
       probe). */
    OTHER_TASKS = 8,
    /* The largest files: a snapshot of all of memory, a console of 16 MiB. */
    FILE_OVERHEAD_BYTES = 32 * MIB,
    /* A vCPU at that much memory: AWS Lambda's "Configure Lambda function memory". */
    MIB_PER_CPU = 1769,
    PERIOD_US = 100000,
    /* A first result takes less where a guest's kernel is not emulated: a quota below it gets
     * longer periods, up to the kernel's longest, so that it is not cut short. */
    QUOTA_LEAST_US = 50000,
    PERIOD_MOST_US = 1000000,
    /* Of its share, for one that stands behind. An eighth: beside a burst of starts a warm guest
     * has most of a CPU, and a start still gets on where all CPUs are taken. */
    BEHIND = 8,
    TRY_MEMORY_MIB = 128,
    TRY_WAIT_MS = 5000,
};

struct jail {
    struct jail_plan plan;
    uint64_t memory_bytes;
    struct jail_config config; /* its texts are not ours to keep */
    bool is_preferred;
    bool has_more_room;       /* the limit is above memory_bytes */
    struct cgroup_leaf *leaf; /* owned; may be NULL */
    int uid_lock;             /* owned; -1: no user of its own */
    char missing[400];
};

/* @what: "" if @why says all. */
static void note(struct jail *jail, const char *what, const char *why)
{
    size_t used = strlen(jail->missing);

    snprintf(jail->missing + used, sizeof(jail->missing) - used, "%s%s%s%.200s", used ? "; " : "",
             what, what[0] ? ": " : "", why);
}

void jail_note(struct jail *jail, const char *what, int code)
{
    char reason[64];

    note(jail, what, strerror_r(code, reason, sizeof(reason)));
}

static void take_user(struct jail *jail)
{
    struct error err;

    if (jail_uid_take(JAIL_UID_DIRECTORY, &jail->plan.user, &jail->uid_lock, &err) < 0)
        note(jail, "a user of its own", err.text);
}

/*
 * Not root: a user namespace brings the privileges for the other namespaces. The user stays; in
 * there its number is 0, which without capabilities means nothing but that the /proc files of a
 * process that is not dumpable stay this user's, and so the host's to read: proc(5).
 */
static void take_user_namespace(struct jail *jail)
{
    struct jail_plan *plan = &jail->plan;

    snprintf(plan->user_map, sizeof(plan->user_map), "0 %u 1", geteuid());
    snprintf(plan->group_map, sizeof(plan->group_map), "0 %u 1", getegid());
    note(jail, "a user of its own", "only root can give it one");
}

/*
 * A share always. The quota of CPU_SHARE is for a monitor that its guest has taken over: no more
 * CPUs than its vCPUs and its devices can use. With CPU_QUOTA it is, once it has started, the share
 * itself; what was not used in one period may be used in the next.
 */
void jail_cpu_limits(const struct jail_config *config, bool is_preferred,
                     struct cgroup_limits *limits)
{
    uint64_t mib = config->cpu_mib ? config->cpu_mib : config->memory_mib;
    uint64_t share = mib * 1000 / MIB_PER_CPU;
    uint64_t period_us = PERIOD_US, quota_us = (config->vcpus + 1) * period_us;
    bool has_quota = is_preferred && config->cpu == CPU_QUOTA;

    share = share > 0 ? share : 1;
    if (!is_preferred && config->is_behind)
        share = (share + BEHIND - 1) / BEHIND;
    if (has_quota) {
        if (share * period_us / 1000 < QUOTA_LEAST_US)
            period_us = QUOTA_LEAST_US * 1000 / share;
        if (period_us > PERIOD_MOST_US)
            period_us = PERIOD_MOST_US;
        quota_us = share * period_us / 1000;
    }
    limits->cpu_share = (uint32_t)share;
    limits->cpu_period_us = (uint32_t)period_us;
    limits->cpu_quota_us = (uint32_t)quota_us;
    limits->cpu_burst_us = has_quota ? (uint32_t)quota_us : 0;
}

static void take_cgroup(struct jail *jail, const struct jail_config *config)
{
    struct cgroup_limits limits = {.memory_bytes = jail->memory_bytes, .tasks = jail->plan.tasks};
    char missing[200] = "";
    struct error err;

    jail_cpu_limits(config, false, &limits);
    int r = cgroup_leaf_new("/proc/self/mountinfo", config->name, &limits, &jail->leaf, missing,
                            sizeof(missing), &err);

    if (r < 0) {
        note(jail, "a control group", err.text);
        return;
    }
    jail->plan.n_cgroups = cgroup_leaf_procs(jail->leaf, jail->plan.cgroups);
    if (missing[0])
        note(jail, "", missing);
}

int jail_new(const struct jail_config *config, struct jail **ret_jail, struct error *err)
{
    struct jail *jail = calloc(1, sizeof(*jail));
    uint64_t guest_bytes = (uint64_t)config->memory_mib * MIB;

    if (!jail)
        return error_set(err, ENOMEM, "make a jail");
    jail->uid_lock = -1;
    jail->config = *config;
    jail->config.name = NULL;
    jail->memory_bytes = guest_bytes + guest_bytes / MEMORY_OVERHEAD_SHARE + MEMORY_OVERHEAD_BYTES;
    jail->plan = (struct jail_plan){.confine = config->mode != JAIL_NONE,
                                    .required = config->mode == JAIL_REQUIRED,
                                    .trap = config->seccomp_trap,
                                    .dumpable = config->mode == JAIL_NONE,
                                    .namespaces = true,
                                    .file_bytes = guest_bytes + FILE_OVERHEAD_BYTES,
                                    .descriptors = DESCRIPTORS,
                                    .tasks = config->vcpus + OTHER_TASKS};
    if (config->mode != JAIL_NONE) {
        if (geteuid() == 0)
            take_user(jail);
        else
            take_user_namespace(jail);
        take_cgroup(jail, config);
    }
    if (config->mode == JAIL_REQUIRED && jail->missing[0]) {
        int r = error_say(err, EPERM, "a whole jail is required, but this is missing: %s",
                          jail->missing);

        jail_free(jail);
        return r;
    }
    *ret_jail = jail;
    return 0;
}

struct jail_plan *jail_plan(struct jail *jail)
{
    return &jail->plan;
}

const char *jail_missing(const struct jail *jail)
{
    return jail->missing;
}

int jail_room_for_file(struct jail *jail, uint64_t bytes, struct error *err)
{
    if (!jail->leaf)
        return 0;
    int r = cgroup_leaf_set_memory(jail->leaf, jail->memory_bytes + bytes, err);
    jail->has_more_room = jail->has_more_room || r == 0;
    return r;
}

void jail_room_back(struct jail *jail)
{
    if (jail->has_more_room && cgroup_leaf_set_memory(jail->leaf, jail->memory_bytes, NULL) == 0)
        jail->has_more_room = false;
}

void jail_prefer(struct jail *jail)
{
    struct cgroup_limits limits;

    if (jail->is_preferred || !jail->leaf)
        return;
    jail_cpu_limits(&jail->config, true, &limits);
    cgroup_leaf_set_cpu(jail->leaf, &limits, jail->config.cpu == CPU_QUOTA);
    jail->is_preferred = true;
}

void jail_free(struct jail *jail)
{
    if (!jail)
        return;
    cgroup_leaf_free(jail->leaf);
    fd_close_at_exit(&jail->uid_lock);
    free(jail);
}

int jail_try(const char *monitor_path, char *missing, size_t size, struct error *err)
{
    char name[48];
    const struct jail_config config = {
        .mode = JAIL_BEST_EFFORT, .name = name, .memory_mib = TRY_MEMORY_MIB, .vcpus = 1};
    struct monitor_process process;
    struct jail *jail = NULL;
    int status = 0;

    snprintf(name, sizeof(name), "try-%d", (int)getpid());
    int r = jail_new(&config, &jail, err);
    if (r == 0)
        r = monitor_spawn(monitor_path, name, jail, &process, err);
    if (r == 0) {
        /* Its control socket ends at once, and so does it. */
        close(process.control);
        if (monitor_reap(&process, TRY_WAIT_MS, &status) < 0) {
            pidfd_send_signal(process.pidfd, SIGKILL, NULL, 0);
            monitor_reap(&process, -1, &status);
        }
        if (status != 0)
            r = error_say(err, EIO, "the monitor does not start in its jail (status %#x)", status);
        close(process.output);
        close(process.pidfd);
        snprintf(missing, size, "%s", jail->missing);
    }
    jail_free(jail);
    return r;
}
