/* What kind of KVM this is: found by trying, never by configuration. */
#ifndef MAYFLY_MONITOR_KVM_PROBE_H
#define MAYFLY_MONITOR_KVM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct kvm_probe {
    bool emulates_supervisor; /* ring 0 runs in KVM's software emulator */
    uint64_t loop_ns;         /* best time of 1,000 iterations of a two-instruction ring-0 loop */
};

/*
 * kvm_probe_supervisor - time a loop in a VM of one page: 0.3 us on hardware, over 700 us on a KVM
 * that emulates. @kvm_fd is borrowed. Takes some 1 to 10 ms. Any thread.
 * Returns 0 or -errno with the KVM call that failed.
 */
int kvm_probe_supervisor(int kvm_fd, struct kvm_probe *ret, struct error *err);

/*
 * kvm_probe_cpuid - does a guest in user mode see the CPUID that KVM_SET_CPUID2 gave it? Not where
 * KVM runs user mode natively without intercepting the instruction: there it sees the processor's.
 * Takes about a millisecond; @kvm_fd, threads and errors as above.
 */
int kvm_probe_cpuid(int kvm_fd, bool *ret_is_kept, struct error *err);

#endif
