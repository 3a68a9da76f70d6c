/*
 * Where figures go: a file or stdout, a plot. Process: the CLI. Paths are the user's.
 */
#ifndef MAYFLY_CLI_BENCH_OUTPUT_H
#define MAYFLY_CLI_BENCH_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"

/* bench_output_check - can both be written, and drawn? To be known before minutes of measuring.
 * @json, @plot: NULL: none; "-" as @json: stdout. */
int bench_output_check(const char *json, const char *plot, struct error *err);

/* bench_output_is_stdout - JSON takes the place of the tables. */
bool bench_output_is_stdout(const char *json);

/* bench_output_json - @object (taken over) to where @json says; nothing where that is NULL. Also
 * says whether all of stdout could be written. */
int bench_output_json(const char *json, json_t *object, struct error *err);

#endif
