/* Deploying: see deploy.h. Process: the CLI. */
#include "deploy.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "daemon_session.h"
#include "deploy_zip.h"

#define FUNCTIONS "/2015-03-31/functions"
#define DEFAULT_ROLE "arn:aws:iam::000000000000:role/mayfly" /* nobody's rights: none are asked */

enum { PATH_BYTES = 1024, POLL_FIRST_MS = 50, POLL_LAST_MS = 500 };

struct deployment {
    struct api_client *client;
    const struct deploy_wanted *wanted;
    struct stage_ticker *ticker;
    int interrupt_fd;
    struct deploy_zip zip;
    struct deploy_outcome *outcome;
    char doing[160]; /* what the ticker shows */
};

/* --- what is wanted, and what differs ----------------------------------------------------------
 */

static json_t *environment_json(const struct deploy_wanted *wanted)
{
    json_t *variables = json_object();

    for (size_t i = 0; i < wanted->n_environment; i++) {
        const char *equals = strchr(wanted->environment[i], '=');
        char *name = strndup(wanted->environment[i], (size_t)(equals - wanted->environment[i]));

        if (name)
            (void)json_object_set_new(variables, name, json_string(equals + 1));
        free(name);
    }
    return json_pack("{s:o}", "Variables", variables);
}

json_t *deploy_settings(const struct deploy_wanted *wanted)
{
    json_t *settings = json_object();
    const struct {
        const char *member, *text;
    } texts[] = {{"Runtime", wanted->runtime},
                 {"Handler", wanted->handler},
                 {"Description", wanted->description},
                 {"Role", wanted->role}};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].text)
            (void)json_object_set_new(settings, texts[i].member, json_string(texts[i].text));
    if (wanted->memory_mib)
        (void)json_object_set_new(settings, "MemorySize",
                                  json_integer((json_int_t)wanted->memory_mib));
    if (wanted->timeout_s)
        (void)json_object_set_new(settings, "Timeout", json_integer((json_int_t)wanted->timeout_s));
    if (wanted->tmp_mib)
        (void)json_object_set_new(settings, "EphemeralStorage",
                                  json_pack("{s:I}", "Size", (json_int_t)wanted->tmp_mib));
    if (wanted->has_environment)
        (void)json_object_set_new(settings, "Environment", environment_json(wanted));
    return settings;
}

json_t *deploy_difference(const json_t *configuration, const json_t *settings)
{
    json_t *difference = json_object(), *value;
    json_t *no_environment = json_pack("{s:{}}", "Variables");
    const char *member;

    json_object_foreach((json_t *)(uintptr_t)settings, member, value)
    {
        const json_t *have = json_object_get(configuration, member);

        if (!have && strcmp(member, "Environment") == 0)
            have = no_environment;
        if (!have || !json_equal(have, value))
            (void)json_object_set(difference, member, value);
    }
    json_decref(no_environment);
    return difference;
}

/* --- the daemon's side -------------------------------------------------------------------------
 */

static int get_configuration(struct deployment *d, const char *qualifier, json_t **ret,
                             struct error *err)
{
    char path[PATH_BYTES];
    int r = qualifier
                ? api_path(path, sizeof(path), err, FUNCTIONS "/%s/configuration?Qualifier=%s",
                           d->wanted->name, qualifier)
                : api_path(path, sizeof(path), err, FUNCTIONS "/%s/configuration", d->wanted->name);

    return r < 0 ? r : api_client_json(d->client, "GET", path, NULL, ret, err);
}

static bool is_under_way(const json_t *configuration)
{
    return strcmp(json_text(configuration, "State"), "Pending") == 0 ||
           strcmp(json_text(configuration, "LastUpdateStatus"), "InProgress") == 0;
}

/* Until it is Active, or failed. *ret_configuration is replaced. */
static int wait_settled(struct deployment *d, const char *qualifier, json_t **configuration,
                        struct error *err)
{
    struct pollfd interrupt = {.fd = d->interrupt_fd, .events = POLLIN};
    int pause_ms = POLL_FIRST_MS, r = 0;

    snprintf(d->doing, sizeof(d->doing), "%s: building (boot, init phase, snapshot)",
             d->wanted->name);
    stage_ticker_say(d->ticker, d->doing);
    while (r == 0 && is_under_way(*configuration)) {
        json_t *newer = NULL;

        if (poll(&interrupt, 1, pause_ms) > 0) {
            r = error_say(err, EINTR,
                          "interrupted; '%s' is deployed, and the daemon goes on building it",
                          d->wanted->name);
            break;
        }
        pause_ms = 2 * pause_ms < POLL_LAST_MS ? 2 * pause_ms : POLL_LAST_MS;
        r = get_configuration(d, qualifier, &newer, err);
        if (r == 0) {
            json_decref(*configuration);
            *configuration = newer;
        }
    }
    stage_ticker_say(d->ticker, NULL);
    return r;
}

static json_t *code_json(const struct deployment *d)
{
    size_t size = sodium_base64_ENCODED_LEN(d->zip.len_bytes, sodium_base64_VARIANT_ORIGINAL);
    AUTO_FREE char *text = malloc(size);

    if (!text)
        return NULL;
    sodium_bin2base64(text, size, d->zip.data, d->zip.len_bytes, sodium_base64_VARIANT_ORIGINAL);
    return json_pack("{s:s}", "ZipFile", text);
}

static void note(struct deployment *d, const char *what)
{
    (void)json_array_append_new(d->outcome->changed, json_string(what));
}

/* --- steps -------------------------------------------------------------------------------------
 */

static int create(struct deployment *d, json_t *settings, json_t **ret, struct error *err)
{
    json_t *code = code_json(d);

    if (!json_object_get(settings, "Runtime") || !json_object_get(settings, "Handler"))
        return error_say(err, EINVAL, "'%s' is new: %s missing", d->wanted->name,
                         json_object_get(settings, "Runtime")
                             ? "its handler (--handler app.handler) is"
                             : "its runtime (--runtime python3.11) is");
    if (!code)
        return error_set(err, ENOMEM, "send the code");
    d->outcome->action = DEPLOY_CREATED;
    (void)json_object_set_new(settings, "FunctionName", json_string(d->wanted->name));
    (void)json_object_set_new(settings, "Code", code);
    if (!json_object_get(settings, "Role"))
        (void)json_object_set_new(settings, "Role", json_string(DEFAULT_ROLE));
    return api_client_json(d->client, "POST", FUNCTIONS, json_incref(settings), ret, err);
}

static int update_settings(struct deployment *d, json_t *difference, json_t **configuration,
                           struct error *err)
{
    char path[PATH_BYTES];
    json_t *newer = NULL, *value;
    const char *member;
    int r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/configuration", d->wanted->name);

    if (r == 0)
        r = api_client_json(d->client, "PUT", path, json_incref(difference), &newer, err);
    if (r < 0)
        return r;
    json_object_foreach(difference, member, value) note(d, member);
    json_decref(*configuration);
    *configuration = newer;
    return wait_settled(d, NULL, configuration, err);
}

static int update_code(struct deployment *d, json_t **configuration, struct error *err)
{
    json_t *code = code_json(d), *newer = NULL;
    char path[PATH_BYTES];

    if (!code)
        return error_set(err, ENOMEM, "send the code");
    int r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/code", d->wanted->name);
    if (r < 0) {
        json_decref(code);
        return r;
    }
    r = api_client_json(d->client, "PUT", path, code, &newer, err);
    if (r < 0)
        return r;
    note(d, "Code");
    json_decref(*configuration);
    *configuration = newer;
    return 0;
}

static bool has_failed(const json_t *configuration)
{
    return strcmp(json_text(configuration, "State"), "Failed") == 0 ||
           strcmp(json_text(configuration, "LastUpdateStatus"), "Failed") == 0;
}

/* Settings first: whether a build between the two works does not matter. What failed before is
 * tried again by sending its code. */
static int update(struct deployment *d, const json_t *settings, json_t **configuration,
                  struct error *err)
{
    json_t *difference = deploy_difference(*configuration, settings);
    bool is_other = strcmp(json_text(*configuration, "CodeSha256"), d->zip.sha256) != 0;
    bool differs = is_other || json_object_size(difference) > 0;
    int r = 0;

    /* While it is being built, the daemon takes no changes. */
    if (differs && !d->wanted->no_wait)
        r = wait_settled(d, NULL, configuration, err);
    if (r == 0 && json_object_size(difference) > 0)
        r = update_settings(d, difference, configuration, err);
    if (r == 0 && (is_other || has_failed(*configuration)))
        r = update_code(d, configuration, err);
    json_decref(difference);
    return r;
}

static int put_concurrency(struct deployment *d, struct error *err)
{
    char path[PATH_BYTES];
    json_t *now = NULL;
    int r = d->wanted->concurrency < 0
                ? 1
                : api_path(path, sizeof(path), err, "/2019-09-30/functions/%s/concurrency",
                           d->wanted->name);

    if (r != 0)
        return r < 0 ? r : 0;
    r = api_client_json(d->client, "GET", path, NULL, &now, err);
    if (r < 0)
        return r;
    const json_t *have = json_object_get(now, "ReservedConcurrentExecutions");
    bool same = json_is_integer(have) && json_integer_value(have) == d->wanted->concurrency;
    json_decref(now);
    if (same)
        return 0;
    note(d, "Concurrency");
    r = api_path(path, sizeof(path), err, "/2017-10-31/functions/%s/concurrency", d->wanted->name);
    return r < 0 ? r
                 : api_client_json(d->client, "PUT", path,
                                   json_pack("{s:I}", "ReservedConcurrentExecutions",
                                             (json_int_t)d->wanted->concurrency),
                                   NULL, err);
}

static int point_alias(struct deployment *d, struct error *err)
{
    const char *version = d->outcome->version;
    json_t *alias = NULL;
    char path[PATH_BYTES];
    int r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/aliases/%s", d->wanted->name,
                     d->wanted->alias);

    if (r == 0)
        r = api_client_json(d->client, "GET", path, NULL, &alias, err);
    if (r == -ENOENT) {
        r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/aliases", d->wanted->name);
        note(d, "Alias");
        return r < 0 ? r
                     : api_client_json(d->client, "POST", path,
                                       json_pack("{s:s, s:s}", "Name", d->wanted->alias,
                                                 "FunctionVersion", version),
                                       NULL, err);
    }
    if (r < 0)
        return r;
    bool same = strcmp(json_text(alias, "FunctionVersion"), version) == 0;
    json_decref(alias);
    if (same)
        return 0;
    note(d, "Alias");
    return api_client_json(d->client, "PUT", path, json_pack("{s:s}", "FunctionVersion", version),
                           NULL, err);
}

/* $LATEST as a version: the same one again where nothing changed since. */
static int publish(struct deployment *d, struct error *err)
{
    json_t *version = NULL;
    char path[PATH_BYTES];
    int r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/versions", d->wanted->name);

    if (r == 0)
        r = api_client_json(d->client, "POST", path, json_object(), &version, err);
    if (r < 0)
        return r;
    snprintf(d->outcome->version, sizeof(d->outcome->version), "%s", json_text(version, "Version"));
    if (is_under_way(version))
        note(d, "Version");
    r = wait_settled(d, d->outcome->version, &version, err);
    json_decref(version);
    return r == 0 && d->wanted->alias ? point_alias(d, err) : r;
}

/* --- all of it ---------------------------------------------------------------------------------
 */

static void take_failure(struct deploy_outcome *outcome)
{
    const char *reason = json_text(outcome->configuration, "LastUpdateStatusReason");

    if (!*reason)
        reason = json_text(outcome->configuration, "StateReason");
    outcome->failed = has_failed(outcome->configuration);
    text_clean(outcome->reason, sizeof(outcome->reason), reason, strlen(reason));
}

static int run(struct deployment *d, struct error *err)
{
    json_t *settings = deploy_settings(d->wanted);
    json_t **configuration = &d->outcome->configuration;
    int r = get_configuration(d, NULL, configuration, err);

    if (r == 0)
        r = update(d, settings, configuration, err);
    else if (r == -ENOENT)
        r = create(d, settings, configuration, err);
    json_decref(settings);
    if (r == 0)
        r = put_concurrency(d, err);
    if (r == 0 && !d->wanted->no_wait)
        r = wait_settled(d, NULL, configuration, err);
    if (r == 0)
        take_failure(d->outcome);
    if (r == 0 && !d->outcome->failed && (d->wanted->publish || d->wanted->alias))
        r = publish(d, err);
    if (r == 0 && d->outcome->action == DEPLOY_UNCHANGED && json_array_size(d->outcome->changed))
        d->outcome->action = DEPLOY_UPDATED;
    return r;
}

int deploy_function(struct api_client *client, const struct deploy_wanted *wanted,
                    struct stage_ticker *ticker, int interrupt_fd,
                    struct deploy_outcome *ret_outcome, struct error *err)
{
    struct deploy_outcome outcome = {.changed = json_array()};
    struct deployment d = {client, wanted, ticker, interrupt_fd, {0}, &outcome, ""};
    uint64_t began_ns = clock_now_ns();
    int r;

    snprintf(d.doing, sizeof(d.doing), "%s: packing %.80s", wanted->name, wanted->code);
    stage_ticker_say(ticker, d.doing);
    r = deploy_zip_make(wanted->code, &d.zip, err);
    stage_ticker_say(ticker, NULL);
    if (r == 0)
        r = run(&d, err);
    deploy_zip_done(&d.zip);
    outcome.took_ms = (clock_now_ns() - began_ns) / 1000000u;
    if (r < 0) {
        deploy_outcome_done(&outcome);
        return r;
    }
    *ret_outcome = outcome;
    return 0;
}

void deploy_outcome_done(struct deploy_outcome *outcome)
{
    json_decref(outcome->configuration);
    json_decref(outcome->changed);
    outcome->configuration = outcome->changed = NULL;
}
