/* Prometheus text: see metrics_text.h. Process: the CLI. */
#include "metrics_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char name_characters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:";

static const char *take_name(const char *at, char to[SAMPLE_NAME_MAX])
{
    size_t len = strspn(at, name_characters);

    if (len == 0 || len >= SAMPLE_NAME_MAX)
        return NULL;
    memcpy(to, at, len);
    to[len] = '\0';
    return at + len;
}

/* From behind the opening quote to behind the closing one; what is too long is cut. */
static const char *take_value(const char *at, char to[SAMPLE_VALUE_MAX])
{
    size_t n = 0;

    for (; *at && *at != '\n' && *at != '"'; at++) {
        char c = *at;

        if (c == '\\') {
            c = *++at;
            if (c != 'n' && c != '\\' && c != '"')
                return NULL;
            c = c == 'n' ? '\n' : c;
        }
        if (n < SAMPLE_VALUE_MAX - 1)
            to[n++] = c;
    }
    to[n] = '\0';
    return *at == '"' ? at + 1 : NULL;
}

/* From behind '{' to behind '}'. */
static const char *take_labels(const char *at, struct metric_sample *sample)
{
    while (*at != '}') {
        if (sample->n_labels == SAMPLE_LABELS_MAX)
            return NULL;
        struct metric_label *label = &sample->labels[sample->n_labels++];

        at = take_name(at, label->name);
        if (!at || at[0] != '=' || at[1] != '"')
            return NULL;
        at = take_value(at + 2, label->value);
        if (!at || (*at != ',' && *at != '}'))
            return NULL;
        at += *at == ',';
    }
    return at + 1;
}

/* One line; its end, or NULL for what is none. */
static const char *take_sample(const char *at, struct metric_sample *sample)
{
    char *end;

    sample->n_labels = 0;
    at = take_name(at, sample->name);
    if (at && *at == '{')
        at = take_labels(at + 1, sample);
    if (!at || (*at != ' ' && *at != '\t'))
        return NULL;
    at += strspn(at, " \t");
    if (*at == '\n' || *at == '\0')
        return NULL;
    sample->value = strtod(at, &end);
    if (end == at || !strchr(" \t\n", *end)) /* a time may follow; strchr finds the 0, too */
        return NULL;
    return end + strcspn(end, "\n");
}

int metrics_text_read(const char *text,
                      int (*on_sample)(void *opaque, const struct metric_sample *sample),
                      void *opaque, struct error *err)
{
    struct metric_sample sample;
    unsigned line = 1;

    for (const char *at = text; *at; at += *at == '\n', line++) {
        if (*at == '#' || *at == '\n') {
            at += strcspn(at, "\n");
            continue;
        }
        at = take_sample(at, &sample);
        if (!at)
            return error_say(err, EBADMSG, "line %u of the metrics is none", line);
        int r = on_sample(opaque, &sample);
        if (r != 0)
            return r;
    }
    return 0;
}

const char *metric_sample_label(const struct metric_sample *sample, const char *name)
{
    for (size_t i = 0; i < sample->n_labels; i++)
        if (strcmp(sample->labels[i].name, name) == 0)
            return sample->labels[i].value;
    return "";
}
