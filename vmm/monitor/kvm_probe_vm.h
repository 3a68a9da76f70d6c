/* The VM of a probe: a few pages from address 0, one vCPU. Shared by kvm_probe.c,
 * kvm_probe_cpuid.c. */
#ifndef MAYFLY_MONITOR_KVM_PROBE_VM_H
#define MAYFLY_MONITOR_KVM_PROBE_VM_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct probe_vm {
    int vm_fd, vcpu_fd;
    uint8_t *memory;
    size_t memory_bytes;
    struct kvm_run *run;
    size_t run_size;
};

#define PROBE_VM_NONE                                                                              \
    {                                                                                              \
        .vm_fd = -1, .vcpu_fd = -1                                                                 \
    }

/* probe_vm_init - into PROBE_VM_NONE; memory is zero. On failure, too, probe_vm_done() it. */
int probe_vm_init(int kvm_fd, size_t memory_bytes, struct probe_vm *vm, struct error *err);
void probe_vm_done(struct probe_vm *vm);

#endif
