/*
 * What operators ask: is it alive, is it ready, what does it count.
 *
 * Health and readiness are anybody's to ask and name no tenant. Metrics name tenants and their
 * functions: all of them are for the Unix socket (and where the configuration opens them), a signed
 * request sees its own tenant's.
 */
#include <string.h>

#include "api_internal.h"

void handle_health(struct api_turn *turn)
{
    api_reply_json(turn, 200, json_pack("{s:s}", "status", "alive"));
}

void handle_ready(struct api_turn *turn)
{
    const struct api_options *options = &turn->api->options;
    struct api_readiness readiness = {.n = 0};
    json_t *reasons = json_array();

    if (options->backend->readiness)
        options->backend->readiness(options->backend_opaque, &readiness);
    for (size_t i = 0; i < readiness.n; i++)
        (void)json_array_append_new(reasons, json_string(readiness.reasons[i]));
    api_reply_json(turn, readiness.n == 0 ? 200 : 503,
                   json_pack("{s:b, s:o}", "ready", readiness.n == 0, "reasons", reasons));
}

/* Whose series; "": all. Answers itself (-1). */
static int choose_tenant(struct api_turn *turn)
{
    const struct http_request *request = turn->request;

    turn->tenant[0] = '\0';
    if (turn->api->options.open_metrics ||
        (request->origin == HTTP_FROM_UNIX && !request_is_forwarded(request) &&
         !http_header_find(request, "authorization") &&
         !http_header_find(request, "x-mayfly-tenant")))
        return 0;
    return api_authenticate(turn, "lambda") < 0 ? -1 : api_take_rate(turn);
}

void handle_metrics(struct api_turn *turn)
{
    const struct api_options *options = &turn->api->options;
    char *text = NULL;

    if (choose_tenant(turn) < 0)
        return;
    if (!options->backend->metrics ||
        options->backend->metrics(options->backend_opaque, turn->tenant[0] ? turn->tenant : NULL,
                                  &text) < 0) {
        api_fail(turn, API_SERVICE, "there are no metrics");
        return;
    }
    api_reply_bytes(turn, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
}
