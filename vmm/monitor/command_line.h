/* The guest kernel's command line: what this machine needs Linux to know, and why. */
#ifndef MAYFLY_MONITOR_COMMAND_LINE_H
#define MAYFLY_MONITOR_COMMAND_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct command_line_config {
    uint32_t tsc_khz; /* 0: let the guest calibrate */
    bool emulates_supervisor;
    unsigned n_virtio; /* devices at LAYOUT_VIRTIO_MMIO, pins from LAYOUT_IRQ_VIRTIO */
    bool pmem_root;    /* /dev/pmem0 is an EROFS root image */
    const char *extra; /* appended; may be NULL */
};

/* command_line_build - into @to; -E2BIG if it does not fit. */
int command_line_build(const struct command_line_config *config, char *to, size_t size_bytes,
                       struct error *err);

#endif
