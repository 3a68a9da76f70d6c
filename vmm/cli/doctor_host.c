/* `mayfly doctor`: the host's kernel, memory and disk. Process: the CLI. Reads /proc and /sys. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/text.h"
#include "doctor.h"

#define MIB (UINT64_C(1) << 20)

static void check_kernel(struct doctor *doctor)
{
    struct utsname name;
    int major = 0, minor = 0;

    uname(&name);
    sscanf(name.release, "%d.%d", &major, &minor);
    bool recent = major > 5 || (major == 5 && minor >= 10);
    doctor_add(doctor, "kernel", recent ? DOCTOR_GOOD : DOCTOR_SLOWER,
               recent ? "" : "Linux 5.10 or later is what Mayfly is tested with", "%.60s %.20s",
               name.release, name.machine);
}

/* The value after "name : " of the first such line of a /proc file. */
static bool find_value(const char *path, const char *name, char *value, size_t size)
{
    char line[512];
    FILE *file = fopen(path, "re");
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file)) {
        const char *colon = strchr(line, ':');

        if (!colon || strncmp(line, name, strlen(name)) != 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        text_clean(value, size, colon, strcspn(colon, "\n"));
        found = true;
    }
    if (file)
        fclose(file);
    return found;
}

static void check_cpu(struct doctor *doctor)
{
    char model[100] = "unknown model";

    find_value("/proc/cpuinfo", "model name", model, sizeof(model));
    doctor_add(doctor, "CPU", DOCTOR_GOOD, "", "%ld x %s", sysconf(_SC_NPROCESSORS_ONLN), model);
}

static uint64_t memory_kib(const char *name)
{
    char value[64];
    uint64_t kib = 0;

    if (find_value("/proc/meminfo", name, value, sizeof(value)))
        sscanf(value, "%" SCNu64, &kib);
    return kib;
}

static void check_memory(struct doctor *doctor)
{
    uint64_t free_mib = memory_kib("MemAvailable") / 1024, all_mib = memory_kib("MemTotal") / 1024;
    enum doctor_verdict verdict = free_mib >= 1024  ? DOCTOR_GOOD
                                  : free_mib >= 256 ? DOCTOR_SLOWER
                                                    : DOCTOR_MISSING;

    doctor_add(doctor, "free memory", verdict,
               verdict == DOCTOR_GOOD ? ""
                                      : "end other programs, or add memory: 1 GiB is easy going",
               "%" PRIu64 " of %" PRIu64 " MiB", free_mib, all_mib);
}

/* @path, or the nearest directory above it that exists. */
static void nearest_existing(const char *path, char *found, size_t size)
{
    snprintf(found, size, "%s", path);
    while (access(found, F_OK) < 0) {
        char *slash = strrchr(found, '/');

        if (!slash || slash == found) {
            snprintf(found, size, "%s", slash ? "/" : ".");
            return;
        }
        *slash = '\0';
    }
}

static void check_disk(struct doctor *doctor)
{
    char path[PATH_MAX];
    struct statvfs fs;

    nearest_existing(doctor->state, path, sizeof(path));
    if (statvfs(path, &fs) < 0) {
        doctor_add(doctor, "free disk", DOCTOR_MISSING, "choose another place with --state",
                   "%.80s: %s", doctor->state, strerror(errno));
        return;
    }
    uint64_t free_mib = (uint64_t)fs.f_bavail * fs.f_frsize / MIB;
    enum doctor_verdict verdict = free_mib >= 2048  ? DOCTOR_GOOD
                                  : free_mib >= 512 ? DOCTOR_SLOWER
                                                    : DOCTOR_MISSING;
    doctor_add(doctor, "free disk", verdict,
               verdict == DOCTOR_GOOD ? ""
                                      : "images want some 500 MiB; --state names another place",
               "%" PRIu64 " MiB at %.80s", free_mib, doctor->state);
}

static void check_cgroups(struct doctor *doctor)
{
    struct statfs fs;

    if (statfs("/sys/fs/cgroup", &fs) < 0)
        doctor_add(doctor, "cgroups", DOCTOR_SLOWER,
                   "mount /sys/fs/cgroup: without it one VM's load is not kept from another's",
                   "none mounted");
    else if (fs.f_type == CGROUP2_SUPER_MAGIC)
        doctor_add(doctor, "cgroups", DOCTOR_GOOD, "", "v2 (unified)");
    else if (access("/sys/fs/cgroup/unified", F_OK) == 0)
        doctor_add(doctor, "cgroups", DOCTOR_GOOD, "",
                   "hybrid: v1 controllers, v2 mount for names");
    else
        doctor_add(doctor, "cgroups", DOCTOR_GOOD, "", "v1 controllers");
}

static void check_vhost_vsock(struct doctor *doctor)
{
    if (access("/dev/vhost-vsock", F_OK) == 0)
        doctor_add(doctor, "/dev/vhost-vsock", DOCTOR_GOOD, "", "present");
    else
        doctor_add(doctor, "/dev/vhost-vsock", DOCTOR_SLOWER,
                   "the kvm driver does not use it; for libvirt: modprobe vhost_vsock, else a "
                   "virtio-serial port serves",
                   "absent");
}

static void check_huge_pages(struct doctor *doctor)
{
    char line[100];
    uint64_t reserved = memory_kib("HugePages_Total");

    if (!doctor_read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)))
        doctor_add(doctor, "transparent huge pages", DOCTOR_SLOWER,
                   "a host kernel with CONFIG_TRANSPARENT_HUGEPAGE", "not in this kernel");
    else if (strstr(line, "[never]"))
        doctor_add(doctor, "transparent huge pages", DOCTOR_SLOWER,
                   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "%s", line);
    else
        doctor_add(doctor, "transparent huge pages", DOCTOR_GOOD, "", "%s", line);
    doctor_add(doctor, "reserved huge pages", reserved ? DOCTOR_GOOD : DOCTOR_SLOWER,
               reserved ? "" : "not needed; sysctl vm.nr_hugepages=N reserves some",
               "%" PRIu64 " of %" PRIu64 " KiB", reserved, memory_kib("Hugepagesize"));
}

static void check_userfaultfd(struct doctor *doctor)
{
    AUTO_FD fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0)
        doctor_add(doctor, "userfaultfd", DOCTOR_GOOD, "", "present");
    else
        doctor_add(doctor, "userfaultfd", DOCTOR_SLOWER,
                   errno == EPERM ? "run as root, or sysctl vm.unprivileged_userfaultfd=1"
                                  : "a host kernel with CONFIG_USERFAULTFD",
                   "%s", strerror(errno));
}

bool doctor_read_line(const char *path, char *line, size_t size)
{
    char raw[512];
    FILE *file = fopen(path, "re");
    bool ok = file && fgets(raw, sizeof(raw), file);

    if (file)
        fclose(file);
    if (ok)
        text_clean(line, size, raw, strcspn(raw, "\n"));
    return ok;
}

void doctor_check_host(struct doctor *doctor)
{
    check_kernel(doctor);
    check_cpu(doctor);
    check_memory(doctor);
    check_disk(doctor);
    check_cgroups(doctor);
    check_vhost_vsock(doctor);
    check_huge_pages(doctor);
    check_userfaultfd(doctor);
}
