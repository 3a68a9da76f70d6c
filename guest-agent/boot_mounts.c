/*
 * Mounts at boot. Process: mayfly-agent, before anything of the function is there.
 *
 * Every mount costs some ten thousand kernel instructions, so there is nothing here that no
 * function needs: /dev/shm is a directory of devtmpfs (itself a tmpfs), sysfs is mounted only if
 * the image lacks the mount point of the cgroup tree, /run stays part of the read-only root.
 */
#include "guest-agent/boot_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CGROUP_DIR "/sys/fs/cgroup"

static int mount_at(const char *type, const char *where, unsigned long flags, const char *options,
                    struct failure *failure)
{
    if (mount(type, where, type, flags, options) < 0)
        return failure_set(failure, errno, "mount %s on %s", type, where);
    return 0;
}

static int mount_dev(struct failure *failure)
{
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    int result = mount_at("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755", failure);

    if (result < 0)
        return result;
    /* The umask takes bits from mkdir's mode, hence chmod. */
    if (mkdir("/dev/shm", 01777) < 0 || chmod("/dev/shm", 01777) < 0)
        return failure_set(failure, errno, "make /dev/shm");
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            return failure_set(failure, errno, "link %s", links[i][1]);
    return 0;
}

static void mount_cgroups(void)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    struct failure failure;

    if (mount_at("cgroup2", CGROUP_DIR, flags, NULL, &failure) == 0)
        return;
    if (mount_at("sysfs", "/sys", flags, NULL, &failure) == 0 &&
        mount_at("cgroup2", CGROUP_DIR, flags, NULL, &failure) == 0)
        return;
    agent_say("no cgroups, the function's memory is not limited: %s", failure.text);
}

int boot_mounts(bool contained, struct failure *failure)
{
    int result = contained ? 0 : mount_dev(failure);

    if (result == 0)
        result = mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2", failure);
    if (result < 0)
        return result;
    mount_cgroups();
    /* Root owns it, so the function cannot change its own code; the file modes see to it. */
    return mount_at("tmpfs", AGENT_TASK_DIR, MS_NOSUID | MS_NODEV, "mode=0755", failure);
}

/* noswap: what lies in /tmp is no part of the function's memory, says our kernel (its patch 0007).
 * Others (a test's) may not know the word. */
int boot_mount_tmp(uint64_t size_bytes, bool is_mounted, struct failure *failure)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | (is_mounted ? MS_REMOUNT : 0);
    char options[64] = "noswap,mode=1777,size=50%";

    if (size_bytes > 0)
        snprintf(options, sizeof(options), "noswap,mode=1777,size=%llu",
                 (unsigned long long)size_bytes);
    int result = mount_at("tmpfs", "/tmp", flags, options, failure);
    return result == -EINVAL
               ? mount_at("tmpfs", "/tmp", flags, options + strlen("noswap,"), failure)
               : result;
}

int boot_loopback_up(struct failure *failure)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int result = 0;

    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        result = failure_set(failure, errno, "bring the loopback device up");
    if (fd >= 0)
        close(fd);
    return result;
}

int boot_standard_files(struct failure *failure)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return failure_set(failure, errno, "open /dev/null");
    return fd;
}
