/* The arguments of `mayfly run`. */
#ifndef MAYFLY_CLI_RUN_OPTIONS_H
#define MAYFLY_CLI_RUN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/instance/agent_client.h"

enum { RUN_MAX_ENVIRONMENT_BYTES = 4096 }; /* names and values together, as in Lambda */

struct run_options {
    const char *package; /* all texts are borrowed from argv unless said */
    const char *runtime; /* "python3.11", "nodejs18.x" or "provided" */
    const char *handler;
    const char *event; /* as given: JSON, @file or - */
    const char *image;
    const char *kernel;
    const char *console;      /* NULL: none kept */
    const char *cpu_template; /* NULL: the host's CPU */
    const char *snapshot;     /* --snapshot: restore this one; then there is no package. Or NULL */
    const char *output;       /* of `mayfly snapshot create`: the snapshot's name. Or NULL */
    const char *state;
    uint64_t memory_mib, tmp_mib, vcpus, timeout_ms;
    bool json, image_given, boot, no_jail, require_jail;
    struct agent_variable *environment; /* owned, with the names in `names` */
    char **names;                       /* owned */
    size_t n_environment;
    char function_name[65]; /* from the package's name */
};

/*
 * run_options_parse - fills *options. argv[0] is "run", or "create" for `mayfly snapshot create`,
 * which takes the same options. Returns -1 to go on, else the exit status: CLI_OK after
 * --help, CLI_USAGE after a line on stderr. In each case run_options_done() it.
 */
int run_options_parse(int argc, char **argv, struct run_options *options);
void run_options_done(struct run_options *options);

#endif
