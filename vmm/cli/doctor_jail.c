/*
 * `mayfly doctor`: what the jail around a monitor can be made of here. Process: the CLI. Nothing is
 * guessed: a monitor without a VM is really put in one.
 */
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "doctor.h"
#include "hypervisor/jail.h"

static void check_seccomp(struct doctor *doctor)
{
    uint32_t action = SECCOMP_RET_KILL_PROCESS;

    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0) {
        doctor_add(doctor, "seccomp filters", DOCTOR_GOOD, "", "present");
        return;
    }
    doctor_add(doctor, "seccomp filters", DOCTOR_MISSING,
               "a host kernel of 4.14 or later with CONFIG_SECCOMP_FILTER", "not in this kernel");
    doctor_need(doctor);
}

/* mayfly-vmm beside this program. False: it has no place. */
static bool monitor_path(char *path, size_t size)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0)
        return false;
    self[n] = '\0';
    return (size_t)snprintf(path, size, "%s/mayfly-vmm", dirname(self)) < size;
}

static void check_whole(struct doctor *doctor)
{
    char path[PATH_MAX], missing[400] = "";
    struct error err = {0};

    if (!monitor_path(path, sizeof(path)) || jail_try(path, missing, sizeof(missing), &err) < 0)
        doctor_add(doctor, "jail of a VM", DOCTOR_MISSING,
                   "mayfly run --no-jail works without one, for debugging only", "%.150s",
                   err.text);
    else if (missing[0])
        doctor_add(doctor, "jail of a VM", DOCTOR_SLOWER,
                   "VMs run, with less between them and this host: run as root, with writable "
                   "control groups (memory, pids, cpu), and outside of containers",
                   "not whole: %.140s", missing);
    else
        doctor_add(doctor, "jail of a VM", DOCTOR_GOOD, "",
                   "whole: user, cgroup, namespaces, empty root");
}

void doctor_check_jail(struct doctor *doctor)
{
    check_seccomp(doctor);
    check_whole(doctor);
}
