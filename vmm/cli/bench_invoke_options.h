/* The arguments of `mayfly bench invoke`. */
#ifndef MAYFLY_CLI_BENCH_INVOKE_OPTIONS_H
#define MAYFLY_CLI_BENCH_INVOKE_OPTIONS_H

#include <stdint.h>

struct bench_invoke_options {
    uint64_t count;     /* rounds: each measures every kind of request */
    uint64_t seconds;   /* of dry invocations, signed and unsigned each; 0: none */
    uint64_t functions; /* of the largest registry that is looked up in; 0: none */
    uint64_t burst;     /* starts of another function at once; 0: none */
    uint64_t bursts;    /* how many times */
    const char *json;   /* NULL: none; "-": stdout; these are borrowed from argv */
    const char *plot;   /* NULL: none */
    const char *state;
};

/* bench_invoke_options_parse - argv[0] is "invoke". As bench_options_parse(). */
int bench_invoke_options_parse(int argc, char **argv, struct bench_invoke_options *options);

#endif
