/* What `mayfly run` tells of an invocation: on stdout the result, or one JSON object; on stderr,
 * for a person, where the time went. */
#ifndef MAYFLY_CLI_RUN_REPORT_H
#define MAYFLY_CLI_RUN_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "host/instance/agent_client.h"
#include "host/instance/identity.h"
#include "host/instance/instance.h"

struct run_report {
    bool json;
    char request_id[REQUEST_ID_BYTES];
    struct agent_result result; /* owned; of the phase that came last */
    bool has_result;
    uint64_t limit_ms; /* of that phase, as the function was given it */
    uint32_t memory_mib;
    struct instance_timings timings;
    const char *start; /* "boot" or "restored" */
    uint64_t total_us;
    uint64_t monitor_bytes;
    struct error host_error; /* code 0: none */
};

/*
 * run_report_print - all of it. Returns the exit status; CLI_HOST_ERROR too when stdout takes no
 * more. A host error's one line on stderr is printed here as well.
 */
int run_report_print(const struct run_report *report);

void run_report_done(struct run_report *report);

#endif
