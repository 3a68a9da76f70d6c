/* Lambda's shapes: see api_internal.h. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "api_internal.h"

void api_function_arn(const struct api *api, const char *account_id, const char *name,
                      const char *qualifier, char ret_arn[API_ARN_BYTES])
{
    bool has = qualifier && *qualifier;

    snprintf(ret_arn, API_ARN_BYTES, "arn:aws:lambda:%s:%s:function:%s%s%s", api->region,
             account_id, name, has ? ":" : "", has ? qualifier : "");
}

void api_user_arn(const struct api_turn *turn, char *ret_arn, size_t size)
{
    snprintf(ret_arn, size, "arn:aws:iam::%s:user/%s", turn->account_id, turn->tenant);
}

void api_time_text(uint64_t ms, char ret_text[API_TIME_BYTES])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    char day[24];

    gmtime_r(&s, &tm);
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(ret_text, API_TIME_BYTES, "%s.%03u+0000", day, (unsigned)(ms % 1000));
}

static void set(json_t *object, const char *name, json_t *value)
{
    (void)json_object_set_new(object, name, value); /* a lack of memory shows in json_dumps() */
}

static void set_text(json_t *object, const char *name, const char *text)
{
    set(object, name, json_string(text));
}

/* Why it failed, or has to wait. */
static void set_reason(json_t *object, const struct function *function, const char *member,
                       const char *code_member, const char *otherwise, const char *otherwise_code)
{
    set_text(object, member, function->reason[0] ? function->reason : otherwise);
    set_text(object, code_member,
             function->reason_code[0] ? function->reason_code : otherwise_code);
}

static void set_state(json_t *object, const struct function *function)
{
    static const char *const states[] = {
        [FUNCTION_PENDING] = "Pending", [FUNCTION_ACTIVE] = "Active", [FUNCTION_FAILED] = "Failed"};
    static const char *const updates[] = {[UPDATE_SUCCESSFUL] = "Successful",
                                          [UPDATE_IN_PROGRESS] = "InProgress",
                                          [UPDATE_FAILED] = "Failed"};

    set_text(object, "State", states[function->state]);
    if (function->state == FUNCTION_PENDING)
        set_reason(object, function, "StateReason", "StateReasonCode",
                   "The function is being created.", "Creating");
    else if (function->state == FUNCTION_FAILED)
        set_reason(object, function, "StateReason", "StateReasonCode", "", "FunctionError");
    set_text(object, "LastUpdateStatus", updates[function->update_status]);
    if (function->update_status == UPDATE_FAILED)
        set_reason(object, function, "LastUpdateStatusReason", "LastUpdateStatusReasonCode", "",
                   "FunctionError");
    else if (function->update_status == UPDATE_IN_PROGRESS && function->reason[0])
        set_reason(object, function, "LastUpdateStatusReason", "LastUpdateStatusReasonCode", "",
                   "InternalError"); /* put off: Lambda has no other word for it */
}

static void set_environment(json_t *object, const struct function *function)
{
    json_t *variables = json_object();

    for (size_t i = 0; i < function->n_environment; i++)
        set_text(variables, function->environment[i].name, function->environment[i].value);
    set(object, "Environment", json_pack("{s:o}", "Variables", variables));
}

json_t *api_function_json(const struct api *api, const struct function *function,
                          const char *qualifier)
{
    char arn[API_ARN_BYTES], modified[API_TIME_BYTES], log_group[128];
    json_t *object = json_object();

    if (!object)
        return NULL;
    api_function_arn(api, function->account_id, function->name, qualifier, arn);
    api_time_text(function->modified_ms, modified);
    snprintf(log_group, sizeof(log_group), "/aws/lambda/%s", function->name);
    set_text(object, "FunctionName", function->name);
    set_text(object, "FunctionArn", arn);
    set_text(object, "Runtime", function->runtime);
    set_text(object, "Role", function->role);
    set_text(object, "Handler", function->handler);
    set(object, "CodeSize", json_integer((json_int_t)function->code_bytes));
    set_text(object, "Description", function->description);
    set(object, "Timeout", json_integer(function->timeout_s));
    set(object, "MemorySize", json_integer(function->memory_mib));
    set_text(object, "LastModified", modified);
    set_text(object, "CodeSha256", function->code_sha256);
    set_text(object, "Version", function->version_text);
    if (function->dead_letter[0])
        set(object, "DeadLetterConfig", json_pack("{s:s}", "TargetArn", function->dead_letter));
    if (function->n_environment > 0)
        set_environment(object, function);
    set(object, "TracingConfig",
        json_pack("{s:s}", "Mode", function->tracing == TRACING_ACTIVE ? "Active" : "PassThrough"));
    set_text(object, "RevisionId", function->revision_id);
    set_state(object, function);
    set_text(object, "PackageType", "Zip");
    set(object, "Architectures", json_pack("[s]", "x86_64"));
    set(object, "EphemeralStorage", json_pack("{s:i}", "Size", (int)function->tmp_mib));
    set(object, "SnapStart",
        json_pack("{s:s, s:s}", "ApplyOn", "None", "OptimizationStatus", "Off"));
    set(object, "LoggingConfig",
        json_pack("{s:s, s:s}", "LogFormat", "Text", "LogGroup", log_group));
    return object;
}

void api_base_url(const struct api_turn *turn, char ret_url[API_URL_BYTES])
{
    const char *host = http_header_find(turn->request, "host");

    if (turn->api->public_url)
        snprintf(ret_url, API_URL_BYTES, "%s", turn->api->public_url);
    else
        snprintf(ret_url, API_URL_BYTES, "%s://%.255s", turn->request->is_tls ? "https" : "http",
                 host && *host ? host : "localhost");
}
