/* What the guest's CPUID says: the host's supported set, with each vCPU's own topology. */
#ifndef MAYFLY_MONITOR_CPUID_H
#define MAYFLY_MONITOR_CPUID_H

#include "common/cpu_template.h"
#include "common/error.h"

struct kvm_cpuid2;

/*
 * cpuid_set - give vCPU @index of @count its CPUID: the host's, or no more than @template has (may
 * be NULL; the host must have it all). Fds are borrowed.
 */
int cpuid_set(int kvm_fd, int vcpu_fd, const struct cpu_template *template, unsigned index,
              unsigned count, struct error *err);

/*
 * cpuid_reduce - leave of a table what @template allows, for a processor of @vendor. Features that
 * KVM itself provides (TSC-deadline timer, x2APIC, its clock) stay.
 */
void cpuid_reduce(struct kvm_cpuid2 *cpuid, const struct cpu_template *template,
                  const char *vendor);

#endif
