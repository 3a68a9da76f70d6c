/*
 * Control groups: see cgroup.h. Process: the host's; trusts the kernel's files, and no names in
 * them: every path is walked from a hierarchy's mount point by descriptors, without links.
 * Source: Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
 */
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>

#include "common/bytes.h"
#include "common/fd.h"

#define PARENT "mayfly"

enum {
    MOUNTS_MAX = 16,
    REMOVE_TRIES = 20, /* a millisecond each: a process that was reaped may still be leaving */
    SWEEP_TRIES = 200, /* 10 ms each: those that were killed for it give back their memory first */
    PIDS_MAX = 4096,
};

enum controller { MEMORY, PIDS, CPU, N_CONTROLLERS };

static const char *const controller_names[N_CONTROLLERS] = {
    [MEMORY] = "memory", [PIDS] = "pids", [CPU] = "cpu"};

/* A mounted hierarchy. */
struct hierarchy {
    char path[256];
    bool v2;
    unsigned has, chosen; /* bits of enum controller */
};

struct hierarchies {
    size_t n;
    struct hierarchy list[MOUNTS_MAX];
};

/* The leaf in one of them. */
struct branch {
    bool v2;
    unsigned chosen;
    int parent, leaf, procs; /* owned; `leaf` is locked while we have it */
};

struct cgroup_leaf {
    char name[NAME_MAX + 1];
    uint64_t memory_bytes; /* the limit at present */
    size_t n;
    struct branch branches[CGROUP_MAX_HIERARCHIES];
};

/* --- what is mounted -------------------------------------------------------------------------- */

/* Does the comma- or blank-separated @list have @word? */
static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at += len)
        if ((at == list || strchr(", ", at[-1])) && strchr(", \n", at[len]))
            return true;
    return false;
}

static unsigned controllers_in(const char *list)
{
    unsigned bits = 0;

    for (unsigned i = 0; i < N_CONTROLLERS; i++)
        if (has_word(list, controller_names[i]))
            bits |= 1u << i;
    return bits;
}

/* cgroup.controllers of a v2 mount. */
static unsigned controllers_of_v2(const char *path)
{
    char file[300], line[256] = "";
    FILE *list;

    snprintf(file, sizeof(file), "%s/cgroup.controllers", path);
    list = fopen(file, "re");
    if (!list || !fgets(line, sizeof(line), list))
        line[0] = '\0';
    if (list)
        fclose(list);
    return controllers_in(line);
}

/* One line of mountinfo: "… … … root mount-point … - type source options" (proc(5)). */
static void take_mount(struct hierarchies *all, char *line)
{
    char *tail = strstr(line, " - "), point[256], type[32], options[256];
    struct hierarchy *one = &all->list[all->n];

    if (!tail || all->n == MOUNTS_MAX || sscanf(line, "%*s %*s %*s %*s %255s", point) != 1 ||
        sscanf(tail, " - %31s %*s %255s", type, options) != 2 || strchr(point, '\\'))
        return;
    if (strcmp(type, "cgroup2") != 0 && strcmp(type, "cgroup") != 0)
        return;
    *one = (struct hierarchy){.v2 = strcmp(type, "cgroup2") == 0};
    snprintf(one->path, sizeof(one->path), "%s", point);
    one->has = one->v2 ? controllers_of_v2(point) : controllers_in(options);
    if (one->has)
        all->n++;
}

/* A controller is in one hierarchy only; mounts of the same one come in any number. */
static int find_hierarchies(const char *mountinfo, struct hierarchies *all, struct error *err)
{
    char line[2048];
    unsigned chosen = 0;
    FILE *file = fopen(mountinfo, "re");

    if (!file)
        return error_set(err, errno, "open %s", mountinfo);
    all->n = 0;
    while (fgets(line, sizeof(line), file))
        take_mount(all, line);
    fclose(file);
    for (size_t i = 0; i < all->n; i++) {
        all->list[i].chosen = all->list[i].has & ~chosen;
        chosen |= all->list[i].chosen;
    }
    return 0;
}

/* --- directories ------------------------------------------------------------------------------ */

static int open_directory(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static int write_file(int directory, const char *name, const char *text)
{
    AUTO_FD fd = openat(directory, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* v2 only: the directories below @directory get the controllers of @bits. */
static int enable_below(int directory, unsigned bits)
{
    int r = 0;

    for (unsigned i = 0; i < N_CONTROLLERS && r == 0; i++) {
        char word[16];

        snprintf(word, sizeof(word), "+%s", controller_names[i]);
        if (bits & (1u << i))
            r = write_file(directory, "cgroup.subtree_control", word);
    }
    return r;
}

/* All VMs together are one competitor for the CPUs: they weigh as much as a process on each of
 * them. An administrator's own setting stays; where there is no such file, it is no cpu hierarchy.
 */
static void give_weight(int parent, bool v2)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    long weight = (cpus > 0 ? cpus : 1) * (v2 ? 100 : 1024), most = v2 ? 10000 : 262144;
    char text[24];

    snprintf(text, sizeof(text), "%ld", weight < most ? weight : most);
    write_file(parent, v2 ? "cpu.weight" : "cpu.shares", text);
}

/* <hierarchy>/mayfly, made where it is missing. Returns an owned fd or -errno. */
static int open_parent(const struct hierarchy *hierarchy)
{
    AUTO_FD root = open(hierarchy->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = root < 0 ? -errno : 0;

    if (r == 0 && hierarchy->v2)
        r = enable_below(root, hierarchy->chosen);
    bool is_new = r == 0 && mkdirat(root, PARENT, 0755) == 0;
    if (r == 0 && !is_new && errno != EEXIST)
        r = -errno;
    if (r < 0)
        return r;
    AUTO_FD parent = open_directory(root, PARENT);
    if (parent >= 0 && is_new)
        give_weight(parent, hierarchy->v2);
    if (parent >= 0 && hierarchy->v2)
        r = enable_below(parent, hierarchy->chosen);
    return r < 0 ? r : fd_steal(&parent);
}

/* Is @pid one of the leaf's? */
static bool is_in(int leaf, long pid)
{
    AUTO_FD fd = openat(leaf, "cgroup.procs", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    long one;
    bool found = false;

    if (!file)
        return false;
    fd_steal(&fd);
    while (!found && fscanf(file, "%ld", &one) == 1)
        found = one == pid;
    fclose(file);
    return found;
}

/* Monitors that outlived their host. A number may be somebody else's by the time it is used: what
 * is killed is what was still in the leaf after it could be told apart for good. */
static void end_processes(int leaf)
{
    AUTO_FD fd = openat(leaf, "cgroup.procs", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    long pid;

    if (!file)
        return;
    fd_steal(&fd);
    for (int i = 0; i < PIDS_MAX && fscanf(file, "%ld", &pid) == 1; i++) {
        AUTO_FD process = pid > 0 ? pidfd_open((pid_t)pid, 0) : -1; /* 0: of another namespace */

        if (process >= 0 && is_in(leaf, pid))
            pidfd_send_signal(process, SIGKILL, NULL, 0);
    }
    fclose(file);
}

/* Removes every leaf whose owner is gone: nobody holds its lock. @parent is locked. Returns how
 * many are there still. */
static unsigned sweep(int parent)
{
    int copy = open_directory(parent, ".");
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    unsigned left = 0;

    if (!directory) {
        fd_close_at_exit(&copy);
        return 0;
    }
    for (struct dirent *item; (item = readdir(directory));) {
        if (item->d_name[0] == '.' || item->d_type != DT_DIR)
            continue;
        AUTO_FD leaf = open_directory(parent, item->d_name);
        if (leaf < 0 || flock(leaf, LOCK_EX | LOCK_NB) < 0 ||
            unlinkat(parent, item->d_name, AT_REMOVEDIR) == 0)
            continue;
        end_processes(leaf);
        left += unlinkat(parent, item->d_name, AT_REMOVEDIR) < 0 && errno == EBUSY;
    }
    closedir(directory);
    return left;
}

/* Makes and locks the leaf; @parent is locked, so no sweeper sees it before it is locked itself. */
static int make_leaf(struct branch *branch, const char *name)
{
    if (mkdirat(branch->parent, name, 0755) < 0)
        return -errno; /* -EEXIST for anything that was planted there, links included */
    branch->leaf = open_directory(branch->parent, name);
    if (branch->leaf >= 0 && flock(branch->leaf, LOCK_EX | LOCK_NB) == 0)
        branch->procs = openat(branch->leaf, "cgroup.procs", O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (branch->procs >= 0)
        return 0;
    int r = branch->leaf < 0 ? branch->leaf : -errno;
    unlinkat(branch->parent, name, AT_REMOVEDIR);
    return r;
}

static void close_branch(struct branch *branch)
{
    fd_close_at_exit(&branch->procs);
    fd_close_at_exit(&branch->leaf);
    fd_close_at_exit(&branch->parent);
}

static int make_branch(const struct hierarchy *hierarchy, const char *name, bool sweep_first,
                       struct branch *ret)
{
    struct branch branch = {.v2 = hierarchy->v2,
                            .chosen = hierarchy->chosen,
                            .parent = open_parent(hierarchy),
                            .leaf = -1,
                            .procs = -1};
    int r = branch.parent < 0 ? branch.parent : 0;

    if (r == 0 && flock(branch.parent, LOCK_EX) < 0)
        r = -errno;
    if (r == 0 && sweep_first)
        (void)sweep(branch.parent); /* what is slow to die is left to the next one */
    if (r == 0) {
        r = make_leaf(&branch, name);
        flock(branch.parent, LOCK_UN);
    }
    if (r < 0)
        close_branch(&branch);
    else
        *ret = branch;
    return r;
}

/* --- limits ----------------------------------------------------------------------------------- */

enum value { BYTES, ZERO, ONE, TASKS, SHARES, WEIGHT, PERIOD, QUOTA, QUOTA_AND_PERIOD, BURST };

/* In the order they must be written: v1 wants the period before the quota. */
static const struct setting {
    enum controller controller;
    bool v2;
    const char *file;
    enum value value;
    bool optional; /* not in every kernel: there, nothing is lost without it */
} settings[] = {
    {MEMORY, false, "memory.limit_in_bytes", BYTES, false},
    {MEMORY, false, "memory.memsw.limit_in_bytes", BYTES, true},
    {MEMORY, false, "memory.swappiness", ZERO, true},
    {PIDS, false, "pids.max", TASKS, false},
    {CPU, false, "cpu.shares", SHARES, false},
    {CPU, false, "cpu.cfs_period_us", PERIOD, false},
    {CPU, false, "cpu.cfs_quota_us", QUOTA, false},
    {CPU, false, "cpu.cfs_burst_us", BURST, true},
    {MEMORY, true, "memory.max", BYTES, false},
    {MEMORY, true, "memory.swap.max", ZERO, true}, /* a guest's memory never reaches a disk */
    {MEMORY, true, "memory.oom.group", ONE, true}, /* no half-dead monitor */
    {PIDS, true, "pids.max", TASKS, false},
    {CPU, true, "cpu.weight", WEIGHT, false},
    {CPU, true, "cpu.max", QUOTA_AND_PERIOD, false},
    {CPU, true, "cpu.max.burst", BURST, true},
};

/* One CPU's worth is @one; the kernel takes @least to @most. */
static uint64_t weigh(const struct cgroup_limits *limits, uint64_t one, uint64_t least,
                      uint64_t most)
{
    uint64_t weight = limits->cpu_share * one / 1000;

    return weight < least ? least : weight > most ? most : weight;
}

static void format_value(enum value value, const struct cgroup_limits *limits, char *text,
                         size_t size)
{
    switch (value) {
    case BYTES:
        snprintf(text, size, "%" PRIu64, limits->memory_bytes);
        break;
    case ZERO:
        snprintf(text, size, "0");
        break;
    case ONE:
        snprintf(text, size, "1");
        break;
    case TASKS:
        snprintf(text, size, "%" PRIu32, limits->tasks);
        break;
    case SHARES:
        snprintf(text, size, "%" PRIu64, weigh(limits, 1024, 2, 262144));
        break;
    case WEIGHT:
        snprintf(text, size, "%" PRIu64, weigh(limits, 100, 1, 10000));
        break;
    case PERIOD:
        snprintf(text, size, "%" PRIu32, limits->cpu_period_us);
        break;
    case QUOTA:
        snprintf(text, size, "%" PRIu32, limits->cpu_quota_us);
        break;
    case QUOTA_AND_PERIOD:
        snprintf(text, size, "%" PRIu32 " %" PRIu32, limits->cpu_quota_us, limits->cpu_period_us);
        break;
    case BURST:
        snprintf(text, size, "%" PRIu32, limits->cpu_burst_us);
        break;
    }
}

static int apply(const struct branch *branch, const struct setting *setting,
                 const struct cgroup_limits *limits)
{
    char text[64];

    format_value(setting->value, limits, text, sizeof(text));
    int r = write_file(branch->leaf, setting->file, text);
    return setting->optional && r == -ENOENT ? 0 : r;
}

static void note(char *missing, size_t size, const char *what, int r)
{
    size_t used = strlen(missing);
    char reason[64];

    snprintf(missing + used, size - used, "%scgroup %s: %s", used ? "; " : "", what,
             strerror_r(-r, reason, sizeof(reason)));
}

static void apply_all(const struct branch *branch, const struct cgroup_limits *limits,
                      char *missing, size_t size)
{
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct setting *one = &settings[i];

        if (one->v2 != branch->v2 || !(branch->chosen & (1u << one->controller)))
            continue;
        int r = apply(branch, one, limits);
        if (r < 0)
            note(missing, size, one->file, r);
    }
}

/* --- the leaf --------------------------------------------------------------------------------- */

static void note_controllers(char *missing, size_t size, unsigned bits, int r)
{
    for (unsigned i = 0; i < N_CONTROLLERS; i++)
        if (bits & (1u << i))
            note(missing, size, controller_names[i], r);
}

int cgroup_leaf_new(const char *mountinfo, const char *name, const struct cgroup_limits *limits,
                    struct cgroup_leaf **ret_leaf, char *missing, size_t size, struct error *err)
{
    static atomic_bool swept; /* once is enough: what this process leaves, it removes itself */
    struct hierarchies all;
    unsigned found = 0;
    int r = find_hierarchies(mountinfo, &all, err);

    if (r < 0)
        return r;
    if (strchr(name, '/') || name[0] == '.' || strlen(name) > NAME_MAX)
        return error_say(err, EINVAL, "'%s' is no name for a control group", name);
    struct cgroup_leaf *leaf = calloc(1, sizeof(*leaf));
    if (!leaf)
        return error_set(err, ENOMEM, "control group");
    memcpy(leaf->name, name, strlen(name) + 1);
    leaf->memory_bytes = limits->memory_bytes;
    missing[0] = '\0';
    bool sweep_first = !atomic_exchange(&swept, true);
    for (size_t i = 0; i < all.n; i++) {
        struct hierarchy *one = &all.list[i];

        if (!one->chosen)
            continue;
        r = leaf->n == CGROUP_MAX_HIERARCHIES
                ? -E2BIG
                : make_branch(one, name, sweep_first, &leaf->branches[leaf->n]);
        if (r < 0)
            note_controllers(missing, size, one->chosen, r);
        else
            apply_all(&leaf->branches[leaf->n++], limits, missing, size);
        found |= one->chosen;
    }
    note_controllers(missing, size, ((1u << N_CONTROLLERS) - 1) & ~found, -ENOENT);
    *ret_leaf = leaf;
    return 0;
}

size_t cgroup_leaf_procs(const struct cgroup_leaf *leaf, int fds[CGROUP_MAX_HIERARCHIES])
{
    for (size_t i = 0; i < leaf->n; i++)
        fds[i] = leaf->branches[i].procs;
    return leaf->n;
}

/* v2 would kill the monitor rather than refuse: it is asked first. */
static int check_room(const struct branch *branch, uint64_t memory_bytes)
{
    char text[32] = "";

    if (!branch->v2)
        return 0;
    AUTO_FD fd = openat(branch->leaf, "memory.current", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return -errno;
    return strtoull(text, NULL, 10) <= memory_bytes ? 0 : -EBUSY;
}

static int set_memory(const struct cgroup_leaf *leaf, const struct branch *branch,
                      const struct setting *setting, uint64_t memory_bytes, struct error *err)
{
    const struct cgroup_limits limits = {.memory_bytes = memory_bytes};
    int r = memory_bytes < leaf->memory_bytes ? check_room(branch, memory_bytes) : 0;

    if (r == 0)
        r = apply(branch, setting, &limits);
    return r < 0 ? error_set(err, -r, "set %s of '%s'", setting->file, leaf->name) : 0;
}

/* v1 keeps memory and swap together at or above memory alone: up, that one goes first. */
int cgroup_leaf_set_memory(struct cgroup_leaf *leaf, uint64_t memory_bytes, struct error *err)
{
    const bool is_up = memory_bytes > leaf->memory_bytes;

    for (size_t i = 0; i < leaf->n; i++) {
        const struct branch *branch = &leaf->branches[i];

        for (size_t s = 0; s < ARRAY_LEN(settings); s++) {
            const struct setting *one = &settings[is_up ? ARRAY_LEN(settings) - 1 - s : s];

            if (one->value != BYTES || one->v2 != branch->v2 || !(branch->chosen & (1u << MEMORY)))
                continue;
            int r = set_memory(leaf, branch, one, memory_bytes, err);
            if (r < 0)
                return r;
        }
    }
    leaf->memory_bytes = memory_bytes;
    return 0;
}

void cgroup_leaf_set_cpu(struct cgroup_leaf *leaf, const struct cgroup_limits *limits,
                         bool with_quota)
{
    for (size_t i = 0; i < leaf->n; i++) {
        const struct branch *branch = &leaf->branches[i];

        for (size_t s = 0; s < ARRAY_LEN(settings); s++) {
            const struct setting *one = &settings[s];

            if (one->controller == CPU && one->v2 == branch->v2 && (branch->chosen & (1u << CPU)) &&
                (with_quota || one->value == SHARES || one->value == WEIGHT))
                (void)apply(branch, one, limits);
        }
    }
}

/* One look at all hierarchies. Returns how many leaves are left. */
static int sweep_all(const struct hierarchies *all)
{
    unsigned left = 0;

    for (size_t i = 0; i < all->n; i++) {
        if (!all->list[i].chosen)
            continue;
        AUTO_FD root = open(all->list[i].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        AUTO_FD parent = root < 0 ? -1 : open_directory(root, PARENT);
        if (parent >= 0 && flock(parent, LOCK_EX) == 0) /* else nobody was ever here */
            left += sweep(parent);
    }
    return (int)left;
}

int cgroup_sweep(const char *mountinfo, unsigned *ret_left, struct error *err)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    struct hierarchies all;
    int left = 0, r = find_hierarchies(mountinfo, &all, err);

    if (r < 0)
        return r;
    for (int i = 0; i < SWEEP_TRIES && (left = sweep_all(&all)) > 0; i++)
        nanosleep(&pause, NULL);
    *ret_left = (unsigned)left;
    return 0;
}

static void remove_leaf(int parent, const char *name)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    for (int i = 0; i < REMOVE_TRIES; i++) {
        if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno != EBUSY)
            return;
        nanosleep(&pause, NULL);
    }
}

void cgroup_leaf_free(struct cgroup_leaf *leaf)
{
    if (!leaf)
        return;
    for (size_t i = 0; i < leaf->n; i++) {
        remove_leaf(leaf->branches[i].parent, leaf->name);
        close_branch(&leaf->branches[i]);
    }
    free(leaf);
}
