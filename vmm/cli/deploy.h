/*
 * Deploying one function: what is there is compared with what is wanted, and only what differs is
 * changed. Process: the CLI. One thread.
 */
#ifndef MAYFLY_CLI_DEPLOY_H
#define MAYFLY_CLI_DEPLOY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api_client.h"
#include "stage_ticker.h"

/* NULL, 0 or -1: not said; then it stays as it is, or gets Lambda's default when it is made. */
struct deploy_wanted {
    const char *name;
    const char *code; /* path of a directory or archive */
    const char *runtime, *handler, *description, *role;
    uint64_t memory_mib, timeout_s, tmp_mib;
    const char *const *environment; /* each "NAME=value" */
    size_t n_environment;
    bool has_environment;
    int64_t concurrency; /* reserved; -1: not said */
    bool publish;        /* a version of it, when it is built */
    const char *alias;   /* that is to point to the published version */
    bool no_wait;        /* return when the daemon has it, not when it is built */
};

enum deploy_action { DEPLOY_UNCHANGED, DEPLOY_CREATED, DEPLOY_UPDATED };

struct deploy_outcome {
    enum deploy_action action;
    json_t *configuration; /* owned: the function's, at the end */
    json_t *changed;       /* owned: names of what was changed: "Code", "MemorySize", … */
    char version[24];      /* that was published; "" without */
    bool failed;           /* it is deployed, but cannot run: why is in `reason` */
    char reason[640];
    uint64_t took_ms;
};

/*
 * deploy_function - returns when it is Active, or cannot be (->failed). @ticker may be NULL.
 * *ret_outcome: deploy_outcome_done() it when 0 is returned.
 */
int deploy_function(struct api_client *client, const struct deploy_wanted *wanted,
                    struct stage_ticker *ticker, int interrupt_fd,
                    struct deploy_outcome *ret_outcome, struct error *err);
void deploy_outcome_done(struct deploy_outcome *outcome);

/* deploy_settings - @wanted as CreateFunction's members, without name and code. Owned. */
json_t *deploy_settings(const struct deploy_wanted *wanted);

/* deploy_difference - the members of @settings that @configuration (GetFunctionConfiguration's) has
 * otherwise. Owned; empty: none. */
json_t *deploy_difference(const json_t *configuration, const json_t *settings);

#endif
