/* The account's limits and use; and what operators ask: health, readiness, metrics. */
#include <errno.h>
#include <string.h>

#include "api_internal.h"
#include "host/package.h"

void handle_account_settings(struct api_turn *turn)
{
    struct tenant tenant;
    struct error err;
    int r = registry_get_tenant(turn->api->options.registry, turn->tenant, &tenant, &err);

    if (r < 0) {
        api_fail_errno(turn, r, &err);
        return;
    }
    api_reply_json(turn, 200,
                   json_pack("{s:{s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I}}", "AccountLimit",
                             "TotalCodeSize", (json_int_t)tenant.code_limit_bytes,
                             "CodeSizeUnzipped", (json_int_t)PACKAGE_MAX_BYTES, "CodeSizeZipped",
                             (json_int_t)PACKAGE_MAX_ARCHIVE_BYTES, "ConcurrentExecutions",
                             (json_int_t)tenant.concurrency, "UnreservedConcurrentExecutions",
                             (json_int_t)tenant.unreserved_concurrency, "AccountUsage",
                             "TotalCodeSize", (json_int_t)tenant.code_bytes, "FunctionCount",
                             (json_int_t)tenant.functions));
}

static void reply_text(struct api_turn *turn, unsigned status, const char *text)
{
    char *own = strdup(text);

    api_reply_bytes(turn, own ? status : 500, "text/plain; charset=utf-8", own, strlen(text));
}

void handle_health(struct api_turn *turn)
{
    reply_text(turn, 200, "ok\n");
}

void handle_ready(struct api_turn *turn)
{
    const struct api_options *options = &turn->api->options;
    const char *why = "not ready";

    if (options->backend->is_ready && !options->backend->is_ready(options->backend_opaque, &why))
        reply_text(turn, 503, why);
    else
        reply_text(turn, 200, "ready\n");
}

/* They tell of all tenants: for who is on this host, or has a key. */
void handle_metrics(struct api_turn *turn)
{
    const struct api_options *options = &turn->api->options;
    char *text = NULL;

    if (turn->request->origin == HTTP_FROM_NETWORK && api_authenticate(turn, "lambda") < 0)
        return;
    if (!options->backend->metrics ||
        options->backend->metrics(options->backend_opaque, &text) < 0) {
        api_fail(turn, API_SERVICE, "there are no metrics");
        return;
    }
    api_reply_bytes(turn, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
}
