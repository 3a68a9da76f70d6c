/* The arguments of `mayfly bench restore`. */
#ifndef MAYFLY_CLI_BENCH_OPTIONS_H
#define MAYFLY_CLI_BENCH_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

enum { BENCH_MAX_SIZES = 8 };

struct bench_options {
    uint64_t count;    /* rounds: each measures every way once, for every memory size */
    uint64_t parallel; /* shells that are restored at once; 0: none */
    uint64_t alive;    /* clones that live at once while their memory is measured; 0: none */
    uint64_t boots;    /* cold boots, spread over the rounds */
    uint32_t memory_mib[BENCH_MAX_SIZES]; /* ascending, each once */
    size_t n_memory;
    const char *json; /* NULL: none; "-": stdout; these are borrowed from argv */
    const char *plot; /* NULL: none */
    const char *state;
};

/*
 * bench_options_parse - argv[0] is "restore". Returns -1 to go on, else the exit status: CLI_OK
 * after --help, CLI_USAGE after a line on stderr.
 */
int bench_options_parse(int argc, char **argv, struct bench_options *options);

#endif
