/* What the guest's CPUID says: the host's supported set, with each vCPU's own topology. */
#ifndef MAYFLY_MONITOR_CPUID_H
#define MAYFLY_MONITOR_CPUID_H

#include "common/error.h"

/* cpuid_set - give vCPU @index of @count its CPUID. Fds are borrowed. */
int cpuid_set(int kvm_fd, int vcpu_fd, unsigned index, unsigned count, struct error *err);

#endif
