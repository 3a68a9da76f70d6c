/* `mayfly doctor`: what KVM offers here. Process: the CLI. Source: KVM api.rst 4.1, 4.4. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "doctor.h"
#include "monitor/kvm_probe.h"

/* Younger than the headers of Debian 12. */
enum { CAP_GUEST_MEMFD = 234, CAP_PRE_FAULT_MEMORY = 236 };

static const struct capability {
    const char *name;
    int number;
    bool needed;
    const char *advice;
} capabilities[] = {
    {"split irqchip", KVM_CAP_SPLIT_IRQCHIP, true, "a host kernel of 4.4 or later"},
    {"MSI by ioctl", KVM_CAP_SIGNAL_MSI, true, "a host kernel of 3.5 or later"},
    {"irqfd", KVM_CAP_IRQFD, true, "a host kernel with CONFIG_HAVE_KVM_IRQCHIP"},
    {"ioeventfd", KVM_CAP_IOEVENTFD, false, "a host kernel with CONFIG_KVM eventfd support"},
    {"immediate exit", KVM_CAP_IMMEDIATE_EXIT, true, "a host kernel of 4.12 or later"},
    {"read-only memory", KVM_CAP_READONLY_MEM, true, "a host kernel of 3.7 or later"},
    {"TSC deadline timer", KVM_CAP_TSC_DEADLINE_TIMER, false, "a CPU with a TSC-deadline timer"},
    {"sync registers", KVM_CAP_SYNC_REGS, false, "a host kernel of 4.17 or later"},
    {"dirty ring", KVM_CAP_DIRTY_LOG_RING, false,
     "a host kernel of 5.11 or later; the dirty log serves instead"},
    {"guest_memfd", CAP_GUEST_MEMFD, false, "a host kernel of 6.8 or later; not needed yet"},
    {"memory prefault", CAP_PRE_FAULT_MEMORY, false,
     "not needed yet; a host kernel of 6.11 or later with hardware paging offers it"},
};

static void check_kind(struct doctor *doctor, int kvm)
{
    struct kvm_probe probe;
    struct error err;

    if (kvm_probe_supervisor(kvm, &probe, &err) < 0) {
        doctor_add(doctor, "KVM kind", DOCTOR_MISSING, "a KVM that can run a guest", "%s",
                   err.text);
        doctor_need(doctor);
        return;
    }
    double loop_us = (double)probe.loop_ns / 1000.0;
    if (probe.emulates_supervisor)
        doctor_add(doctor, "KVM kind", DOCTOR_SLOWER,
                   "boots take seconds here; a bare-metal host, or one whose hypervisor offers "
                   "nested VT-x/AMD-V, boots in milliseconds",
                   "emulates guest kernel mode (1,000 ring-0 loops: %.1f us)", loop_us);
    else
        doctor_add(doctor, "KVM kind", DOCTOR_GOOD, "", "hardware (1,000 ring-0 loops: %.1f us)",
                   loop_us);
}

static void check_templates(struct doctor *doctor, int kvm)
{
    bool is_kept = false;
    struct error err;

    if (kvm_probe_cpuid(kvm, &is_kept, &err) < 0)
        doctor_add(doctor, "CPU templates", DOCTOR_SLOWER,
                   "snapshots can be restored on this kind of processor only", "%s", err.text);
    else if (is_kept)
        doctor_add(doctor, "CPU templates", DOCTOR_GOOD, "", "guests see the CPUID they are given");
    else
        doctor_add(doctor, "CPU templates", DOCTOR_SLOWER,
                   "--cpu-template is refused, and snapshots can be restored on this kind of "
                   "processor only; a KVM with VT-x/AMD-V can hide features",
                   "guests see the processor's own CPUID");
}

static void check_capabilities(struct doctor *doctor, int kvm)
{
    for (size_t i = 0; i < ARRAY_LEN(capabilities); i++) {
        const struct capability *capability = &capabilities[i];
        int value = ioctl(kvm, KVM_CHECK_EXTENSION, capability->number);

        if (value > 0) {
            doctor_add(doctor, capability->name, DOCTOR_GOOD, "", "present");
            continue;
        }
        doctor_add(doctor, capability->name, capability->needed ? DOCTOR_MISSING : DOCTOR_SLOWER,
                   capability->advice, "not offered by this KVM");
        if (capability->needed)
            doctor_need(doctor);
    }
}

static void report_no_kvm(struct doctor *doctor, int code)
{
    const char *advice = "load the module (modprobe kvm_intel or kvm_amd); switch on VT-x/AMD-V in "
                         "the firmware, or nested virtualisation in the hypervisor below";

    if (code == EACCES || code == EPERM)
        advice = "add your user to the group kvm (usermod -aG kvm USER, then log in again)";
    doctor_add(doctor, "/dev/kvm", DOCTOR_MISSING, advice, "%s", strerror(code));
    doctor_need(doctor);
}

void doctor_check_kvm(struct doctor *doctor)
{
    AUTO_FD kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm < 0) {
        report_no_kvm(doctor, errno);
        return;
    }
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        doctor_add(doctor, "/dev/kvm", DOCTOR_MISSING, "a host kernel of 2.6.22 or later",
                   "API version %d instead of %d", version, KVM_API_VERSION);
        doctor_need(doctor);
        return;
    }
    doctor_add(doctor, "/dev/kvm", DOCTOR_GOOD, "", "API version %d, up to %d vCPUs a VM", version,
               ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
    check_kind(doctor, kvm);
    check_templates(doctor, kvm);
    check_capabilities(doctor, kvm);
}
