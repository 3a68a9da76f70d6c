/* Where figures go: see bench_output.h. Process: the CLI. */
#include "bench_output.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench_plot.h"
#include "cli_common.h"

bool bench_output_is_stdout(const char *json)
{
    return json && strcmp(json, "-") == 0;
}

static int check_writable(const char *path, struct error *err)
{
    char copy[PATH_MAX];

    if (access(path, W_OK) == 0)
        return 0;
    if (errno == ENOENT && snprintf(copy, sizeof(copy), "%s", path) < PATH_MAX &&
        access(dirname(copy), W_OK) == 0)
        return 0;
    return error_set(err, errno, "write '%s'", path);
}

int bench_output_check(const char *json, const char *plot, struct error *err)
{
    int r = json && !bench_output_is_stdout(json) ? check_writable(json, err) : 0;

    if (r == 0 && plot)
        r = check_writable(plot, err);
    if (r == 0 && plot)
        r = bench_plot_check(err);
    return r;
}

int bench_output_json(const char *json, json_t *object, struct error *err)
{
    int r = 0;

    if (bench_output_is_stdout(json))
        r = cli_print_json(json_incref(object), err);
    if (fflush(stdout) != 0 && r == 0)
        r = error_set(err, errno, "write the result");
    if (r == 0 && json && !bench_output_is_stdout(json) &&
        json_dump_file(object, json, JSON_INDENT(1)) < 0)
        r = error_set(err, errno ? errno : EIO, "write '%s'", json);
    json_decref(object);
    return r;
}
