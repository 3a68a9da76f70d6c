/* The account's limits and use. */
#include <errno.h>
#include <string.h>

#include "api_internal.h"
#include "host/instance/package.h"

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
