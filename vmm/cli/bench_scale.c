/* Registries of different sizes: see bench_scale.h. Process: the CLI. */
#include "bench_scale.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_client.h"
#include "bench_daemon.h"
#include "bench_state.h"
#include "cli_common.h"
#include "common/bytes.h"

enum { LOOKUPS = 5, PAGES = 2, KEEP_ALIVE_S = 60, PATH_BYTES = 600 };

#define FUNCTIONS "/2015-03-31/functions"

/* One size. */
static const struct size {
    uint64_t n;
    const char *get, *list, *rss; /* names of its series */
} sizes[] = {
    {10, "get.10", "list.10", "rss.10"},
    {1000, "get.1000", "list.1000", "rss.1000"},
    {10000, "get.10000", "list.10000", "rss.10000"},
};

struct place {
    const struct size *size;
    struct bench_daemon daemon; /* owned, as the client */
    struct bench_client *client;
    uint64_t next;               /* function to be looked up */
    char marker[PATH_BYTES / 2]; /* of the next page; "": the first */
};

struct bench_scale {
    struct place places[ARRAY_LEN(sizes)];
    size_t n;
};

/* --- making them ----------------------------------------------------------------------------- */

static int on_function(void *opaque, uint64_t done, uint64_t total, struct error *err)
{
    stage_ticker_count(opaque, done, total);
    return cli_interrupted() ? error_say(err, EINTR, "interrupted") : 0;
}

static int make_place(struct place *place, const struct size *size, const char *directory,
                      struct stage_ticker *ticker, struct error *err)
{
    char path[PATH_MAX];

    place->size = size;
    if (snprintf(path, sizeof(path), "%s/%llu", directory, (unsigned long long)size->n) >=
        (int)sizeof(path))
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    int r = bench_state_fill(path, size->n, on_function, ticker, err);
    if (r == 0)
        r = bench_daemon_start(path, KEEP_ALIVE_S, &place->daemon, err);
    return r < 0 ? r : bench_client_new(place->daemon.url, &place->client, err);
}

int bench_scale_new(const char *directory, uint64_t functions, struct stage_ticker *ticker,
                    struct bench_scale **ret_scale, struct error *err)
{
    struct bench_scale *scale = calloc(1, sizeof(*scale));
    int r = scale ? 0 : error_set(err, ENOMEM, "measure lookups");

    stage_ticker_say(ticker, "filling registries: function");
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(sizes) && sizes[i].n <= functions; i++)
        r = make_place(&scale->places[scale->n++], &sizes[i], directory, ticker, err);
    stage_ticker_say(ticker, NULL);
    if (r < 0) {
        bench_scale_free(scale);
        return r;
    }
    *ret_scale = scale;
    return 0;
}

void bench_scale_free(struct bench_scale *scale)
{
    if (!scale)
        return;
    for (size_t i = 0; i < scale->n; i++) {
        bench_client_free(scale->places[i].client);
        bench_daemon_stop(&scale->places[i].daemon);
    }
    free(scale);
}

/* --- looking up ------------------------------------------------------------------------------ */

static int expect_ok(const struct bench_answer *answer, const char *what, struct error *err)
{
    return answer->status == 200
               ? 0
               : error_say(err, EIO, "%s: %u: %.200s", what, answer->status, answer->body);
}

static int look_up(struct place *place, uint64_t i, uint64_t *ret_wall_us, struct error *err)
{
    char name[BENCH_NAME_BYTES], path[PATH_BYTES];
    struct bench_answer answer;

    bench_state_function_name(i, name);
    snprintf(path, sizeof(path), FUNCTIONS "/%s", name);
    int r = bench_client_call(place->client, "GET", path, NULL, NULL, &answer, err);
    if (r == 0)
        r = expect_ok(&answer, "GetFunction", err);
    if (r == 0)
        *ret_wall_us = answer.wall_us;
    return r;
}

/* The next page, and from the end on again the first. */
static int list(struct place *place, uint64_t *ret_wall_us, struct error *err)
{
    char path[PATH_BYTES];
    struct bench_answer answer;

    snprintf(path, sizeof(path), FUNCTIONS "?MaxItems=10%s%s", place->marker[0] ? "&Marker=" : "",
             place->marker);
    int r = bench_client_call(place->client, "GET", path, NULL, NULL, &answer, err);
    if (r == 0)
        r = expect_ok(&answer, "ListFunctions", err);
    if (r < 0)
        return r;
    json_t *page = json_loadb(answer.body, answer.body_bytes, 0, NULL);
    const char *marker = json_string_value(json_object_get(page, "NextMarker"));
    if (json_array_size(json_object_get(page, "Functions")) != 10)
        r = error_say(err, EIO, "ListFunctions gave a page of %zu functions, not 10",
                      json_array_size(json_object_get(page, "Functions")));
    snprintf(place->marker, sizeof(place->marker), "%s", marker ? marker : "");
    json_decref(page);
    *ret_wall_us = answer.wall_us;
    return r;
}

static int measure(struct place *place, struct bench_figures *figures, struct error *err)
{
    const struct size *size = place->size;
    uint64_t us;
    int r = 0;

    for (unsigned i = 0; i < LOOKUPS && r == 0; i++) {
        r = look_up(place, place->next, &us, err);
        place->next = (place->next + 7919) % size->n; /* a prime: all of them in the end */
        if (r == 0)
            r = bench_figures_add(figures, size->get, "us", 0, (double)us, err);
    }
    for (unsigned i = 0; i < PAGES && r == 0; i++) {
        r = list(place, &us, err);
        if (r == 0)
            r = bench_figures_add(figures, size->list, "us", 0, (double)us, err);
    }
    return r;
}

int bench_scale_round(struct bench_scale *scale, struct bench_figures *figures, struct error *err)
{
    int r = 0;

    for (size_t i = 0; i < scale->n && r == 0; i++)
        r = measure(&scale->places[i], figures, err);
    return r;
}

int bench_scale_memory(struct bench_scale *scale, struct bench_figures *figures, struct error *err)
{
    int r = 0;

    for (size_t i = 0; i < scale->n && r == 0; i++) {
        struct place *place = &scale->places[i];
        uint64_t us;

        for (uint64_t f = 0; f < place->size->n && r == 0; f++)
            r = cli_interrupted() ? error_say(err, EINTR, "interrupted")
                                  : look_up(place, f, &us, err);
        if (r == 0)
            r = bench_figures_add(figures, place->size->rss, "bytes", 0,
                                  (double)bench_daemon_rss_bytes(&place->daemon), err);
    }
    return r;
}
