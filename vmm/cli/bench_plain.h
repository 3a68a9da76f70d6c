/*
 * The peer of our restores: the sequence of KVM calls by which forkers of microVMs usually make a
 * clone, in one process, with nothing prepared. Process: the CLI. One thread.
 */
#ifndef MAYFLY_CLI_BENCH_PLAIN_H
#define MAYFLY_CLI_BENCH_PLAIN_H

#include <stdint.h>

#include "common/error.h"

struct bench_plain;

/*
 * bench_plain_new - opens /dev/kvm and takes the vCPU state that every clone is given: that of a
 * new vCPU, which KVM takes as long over as over any other. *ret_plain is owned.
 */
int bench_plain_new(struct bench_plain **ret_plain, struct error *err);
void bench_plain_free(struct bench_plain *plain); /* takes NULL */

/* From the beginning; teardown: from its own. */
struct bench_plain_times {
    uint64_t restored_ns; /* just before KVM_RUN */
    uint64_t first_exit_ns;
    uint64_t teardown_ns;
};

/*
 * bench_plain_clone - one VM over @memory_fd (all of RAM, borrowed), from KVM_CREATE_VM to its end.
 * Its guest is two bytes of code, an OUT.
 */
int bench_plain_clone(const struct bench_plain *plain, int memory_fd, uint32_t memory_mib,
                      struct bench_plain_times *ret_times, struct error *err);

/* bench_plain_kvm_kind - a literal: "hardware", or "emulates supervisor mode". */
const char *bench_plain_kvm_kind(const struct bench_plain *plain);

#endif
