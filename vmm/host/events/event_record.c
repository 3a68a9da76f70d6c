/*
 * Records of asynchronous invocations, as Lambda sends them to destinations. Pure. Source: Lambda
 * Developer Guide, "Capturing records of Lambda asynchronous invocations".
 *
 * Payloads and responses are hostile: what is JSON (checked) is put in as it is, other text as a
 * JSON string; what is no text, or larger than EVENT_PAYLOAD_MAX, as null, so that a chain of
 * functions does not grow its records without end.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "event_internal.h"
#include "host/json_check.h"

static void put_string(FILE *to, const char *text, size_t len)
{
    json_t *string = json_stringn(text, len); /* NULL: not UTF-8 */

    if (!string || json_dumpf(string, to, JSON_ENCODE_ANY) < 0)
        fputs("null", to);
    json_decref(string);
}

static void put_value(FILE *to, const void *data, size_t len)
{
    struct error ignored;

    if (!data || len == 0 || len > EVENT_PAYLOAD_MAX)
        fputs("null", to);
    else if (json_check(data, len, &ignored) == 0)
        fwrite(data, 1, len, to);
    else
        put_string(to, data, len);
}

/* 2019-11-14T18:16:05.568Z */
static void put_time(FILE *to, uint64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char text[32];

    if (!gmtime_r(&seconds, &parts) ||
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        text[0] = '\0';
    fprintf(to, "\"%s.%03uZ\"", text, (unsigned)(ms % 1000));
}

/* Names and qualifiers are of characters that JSON takes as they are (registry_rules.c). */
static void put_record(FILE *to, const struct event_record *record)
{
    const struct event_row *row = record->row;
    const struct event_result *result = record->result;

    fputs("{\"version\":\"1.0\",\"timestamp\":", to);
    put_time(to, record->now_ms);
    fprintf(to,
            ",\"requestContext\":{\"requestId\":\"%s\",\"functionArn\":"
            "\"arn:aws:lambda:%s:%s:function:%s:%s\",\"condition\":\"%s\","
            "\"approximateInvokeCount\":%u},\"requestPayload\":",
            row->request_id, record->region, row->account_id, row->function, row->qualifier,
            record->condition, record->invoke_count);
    put_value(to, record->payload, record->payload_len_bytes);
    if (result && result->executed_version) {
        fprintf(to, ",\"responseContext\":{\"statusCode\":%u,\"executedVersion\":", result->status);
        put_string(to, result->executed_version, strlen(result->executed_version));
        if (result->function_error) {
            fputs(",\"functionError\":", to);
            put_string(to, result->function_error, strlen(result->function_error));
        }
        fputs("},\"responsePayload\":", to);
        put_value(to, result->response, result->response_len_bytes);
    }
    fputs("}", to);
}

int event_record_make(const struct event_record *record, char **ret_text, size_t *ret_len_bytes,
                      struct error *err)
{
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);

    if (!to)
        return error_set(err, errno, "write a destination's record");
    put_record(to, record);
    int failed = ferror(to);
    if (fclose(to) != 0 || failed) {
        free(text);
        return error_set(err, ENOMEM, "write a destination's record");
    }
    *ret_text = text;
    *ret_len_bytes = len;
    return 0;
}
