/* Spans as OTLP's JSON: see span_exporter.h. Pure. */
#include <jansson.h>
#include <stdio.h>

#include "span_exporter.h"

enum { KIND_INTERNAL = 1, KIND_SERVER = 2, STATUS_OK = 1, STATUS_ERROR = 2 };

static void add_text(json_t *attributes, const char *key, const char *value)
{
    (void)json_array_append_new(
        attributes, json_pack("{s:s, s:{s:s}}", "key", key, "value", "stringValue", value));
}

/* 64-bit numbers are texts in OTLP's JSON, as in protobuf's. */
static void add_number(json_t *attributes, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    (void)json_array_append_new(attributes,
                                json_pack("{s:s, s:{s:s}}", "key", key, "value", "intValue", text));
}

static void add_boolean(json_t *attributes, const char *key, bool value)
{
    (void)json_array_append_new(
        attributes, json_pack("{s:s, s:{s:b}}", "key", key, "value", "boolValue", value));
}

/* *ret_attributes: borrowed, to be added to. */
static void add_span(json_t *spans, const struct span_record *record, const char *name,
                     const char *id, const char *parent, int kind, uint64_t begin_ns,
                     uint64_t end_ns, json_t **ret_attributes, json_t **ret_span)
{
    char begin[24], end[24];
    json_t *attributes = json_array(), *span;

    snprintf(begin, sizeof(begin), "%llu", (unsigned long long)begin_ns);
    snprintf(end, sizeof(end), "%llu", (unsigned long long)end_ns);
    span = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:o}", "traceId", record->trace_id, "spanId",
                     id, "name", name, "kind", kind, "startTimeUnixNano", begin, "endTimeUnixNano",
                     end, "attributes", attributes);
    if (span && parent[0])
        (void)json_object_set_new(span, "parentSpanId", json_string(parent));
    (void)json_array_append_new(spans, span);
    *ret_attributes = span ? attributes : NULL;
    *ret_span = span;
}

static void add_status(json_t *span, const struct span_record *record)
{
    static const char *const words[] = {"", "function_error", "timeout", "sandbox_error",
                                        "throttled"};
    const char *word = record->is_host_error ? "host_error" : words[record->kind];

    if (!word[0])
        (void)json_object_set_new(span, "status", json_pack("{s:i}", "code", STATUS_OK));
    else
        (void)json_object_set_new(span, "status",
                                  json_pack("{s:i, s:s}", "code", STATUS_ERROR, "message", word));
}

static void add_invocation(json_t *spans, const struct span_record *record)
{
    static const char *const starts[] = {"warm", "restored", "cold"};
    json_t *attributes, *span;

    add_span(spans, record, record->function, record->server_id, record->parent_id, KIND_SERVER,
             record->begin_unix_ns, record->end_unix_ns, &attributes, &span);
    if (!span)
        return;
    add_status(span, record);
    add_text(attributes, "faas.name", record->function);
    add_text(attributes, "faas.version", record->version);
    add_text(attributes, "faas.invocation_id", record->request_id);
    add_text(attributes, "faas.trigger", "http");
    add_number(attributes, "faas.max_memory", (uint64_t)record->memory_mib << 20);
    add_text(attributes, "mayfly.tenant", record->tenant);
    if (record->instance[0])
        add_text(attributes, "faas.instance", record->instance);
    if (record->run_begin_unix_ns) {
        add_boolean(attributes, "faas.coldstart", record->start != START_WARM);
        add_text(attributes, "mayfly.start", starts[record->start]);
    }
}

/* What the instance took: it was there when the function began. */
static void add_start(json_t *spans, const struct span_record *record)
{
    uint64_t end_ns = record->run_begin_unix_ns, us = record->init_us;
    char id[SPAN_ID_BYTES], inner[SPAN_ID_BYTES];
    json_t *attributes, *span;

    trace_span_id(id);
    add_span(spans, record, "acquire", id, record->server_id, KIND_INTERNAL, record->begin_unix_ns,
             end_ns, &attributes, &span);
    us = us ? us : record->restore_us;
    us = us < record->acquire_us ? us : record->acquire_us;
    if (us == 0)
        return;
    trace_span_id(inner);
    add_span(spans, record, record->init_us ? "init" : "restore", inner, id, KIND_INTERNAL,
             end_ns - us * 1000, end_ns, &attributes, &span);
}

static void add_run(json_t *spans, const struct span_record *record)
{
    json_t *attributes, *span;

    add_span(spans, record, "run", record->run_id, record->server_id, KIND_INTERNAL,
             record->run_begin_unix_ns, record->run_begin_unix_ns + record->duration_us * 1000,
             &attributes, &span);
    if (!span)
        return;
    add_status(span, record);
    add_text(attributes, "faas.invocation_id", record->request_id);
}

char *span_exporter_json(const struct span_record *records, size_t n)
{
    json_t *spans = json_array(), *resource = json_array();

    add_text(resource, "service.name", "mayflyd");
    add_text(resource, "service.version", MAYFLY_VERSION);
    for (size_t i = 0; i < n; i++) {
        add_invocation(spans, &records[i]);
        if (records[i].run_begin_unix_ns) {
            add_start(spans, &records[i]);
            add_run(spans, &records[i]);
        }
    }
    json_t *message = json_pack("{s:[{s:{s:o}, s:[{s:{s:s, s:s}, s:o}]}]}", "resourceSpans",
                                "resource", "attributes", resource, "scopeSpans", "scope", "name",
                                "mayfly", "version", MAYFLY_VERSION, "spans", spans);
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

    json_decref(message);
    return text;
}
