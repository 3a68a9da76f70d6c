/* Functions, versions and listings of the registry: every rule, and hostile inputs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "registry_fixture.h"

static int create(struct registry_fixture *f, const struct function_key *key,
                  const struct function_settings *settings, struct error *err)
{
    struct code_staged *code = fixture_stage(f, "x");
    int r = registry_create_function(f->registry, key, settings, code, NULL, 0, NULL, err);

    code_staged_free(code);
    return r;
}

static int find(struct registry_fixture *f, const char *tenant, const char *name,
                const char *qualifier, struct error *err)
{
    struct function_key key = {tenant, name, qualifier};
    struct function *function = NULL;
    int r = registry_find(f->registry, &key, -1, &function, err);

    function_free(function);
    return r;
}

/* --- making --------------------------------------------------------------------------------------
 */

static void test_create_shows_what_was_set(void **state)
{
    struct registry_fixture *f = *state;
    const struct text_pair environment[] = {{"ZETA", ""}, {"ALPHA", "\xc3\xa4=b"}};
    const struct text_pair tags[] = {{"team", "blue"}};
    struct function_settings settings = {
        .members = 0x3ff,
        .runtime = "python3.11",
        .handler = "app.handler",
        .role = "arn:aws:iam::123456789012:role/service-role/x",
        .description = "what it does",
        .timeout_s = 900,
        .memory_mib = 10240,
        .tmp_mib = 1024,
        .environment = environment,
        .n_environment = 2,
        .dead_letter = "file:letters",
        .tracing = TRACING_ACTIVE,
    };
    struct function_key key = fixture_key("Every-thing_1", NULL);
    struct code_staged *code = fixture_stage(f, "x");
    struct function *function = NULL;
    struct tag_list list;
    struct error err = {0};
    char path[256];

    fixture_expect(
        registry_create_function(f->registry, &key, &settings, code, tags, 1, &function, &err), 0,
        &err, "");
    assert_string_equal(function->tenant, "alice");
    assert_string_equal(function->account_id, "000000000001");
    assert_string_equal(function->name, "Every-thing_1");
    assert_string_equal(function->version_text, "$LATEST");
    assert_string_equal(function->role, settings.role);
    assert_string_equal(function->description, "what it does");
    assert_string_equal(function->dead_letter, "file:letters");
    assert_int_equal(function->timeout_s, 900);
    assert_int_equal(function->memory_mib, 10240);
    assert_int_equal(function->tmp_mib, 1024);
    assert_int_equal(function->tracing, TRACING_ACTIVE);
    assert_int_equal(function->n_environment, 2);
    assert_string_equal(function->environment[0].name, "ALPHA");
    assert_string_equal(function->environment[0].value, "\xc3\xa4=b");
    assert_string_equal(function->environment[1].value, "");
    assert_string_equal(function->code_sha256, code_staged_sha256(code));
    assert_int_equal(function->code_bytes, code_staged_len_bytes(code));
    assert_int_equal(function->modified_ms, fixture_now_ms);
    assert_int_equal(strlen(function->revision_id), 36);
    assert_int_equal(function->state, FUNCTION_PENDING);
    assert_int_equal(function->update_status, UPDATE_SUCCESSFUL);
    assert_int_equal(function->reserved_concurrency, RESERVED_NONE);
    assert_int_equal(function->account_concurrency, 1000);
    fixture_expect(code_store_path(registry_code_store(f->registry), function->code_sha256, path,
                                   sizeof(path), &err),
                   0, &err, "");
    FILE *zip = fopen(path, "r");
    assert_non_null(zip);
    fclose(zip);
    fixture_expect(registry_get_tags(f->registry, &key, &list, &err), 0, &err, "");
    assert_int_equal(list.n, 1);
    assert_string_equal(list.tags[0].value, "blue");
    tag_list_done(&list);
    function_free(function);
    code_staged_free(code);
}

static void test_create_defaults(void **state)
{
    struct registry_fixture *f = *state;
    struct function *function;

    fixture_create(f, "f", "x");
    function = fixture_find(f, "f", NULL);
    assert_int_equal(function->timeout_s, 3);
    assert_int_equal(function->memory_mib, 128);
    assert_int_equal(function->tmp_mib, 512);
    assert_int_equal(function->n_environment, 0);
    assert_string_equal(function->description, "");
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    assert_null(function->alias);
    function_free(function);
}

static void test_create_twice(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), bobs = {"bob", "f", NULL};
    struct function_key nobodys = {"carol", "f", NULL};
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_expect(create(f, &key, &fixture_settings, &err), EEXIST, &err, "already exist");
    fixture_expect(create(f, &bobs, &fixture_settings, &err), 0, &err, "");
    fixture_expect(create(f, &nobodys, &fixture_settings, &err), ENOENT, &err, "no tenant");
}

static void test_tenants_do_not_see_each_other(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key bobs = {"bob", "secret", NULL};
    struct function_page page;
    struct error err = {0}, other = {0};

    fixture_create(f, "secret", "x");
    fixture_expect(find(f, "bob", "secret", NULL, &err), ENOENT, &err, "Function not found");
    fixture_expect(find(f, "bob", "nothing", NULL, &other), ENOENT, &other, "Function not found");
    fixture_expect(registry_delete(f->registry, &bobs, &err), ENOENT, &err, "not found: secret");
    fixture_expect(
        registry_update_settings(f->registry, &bobs, &fixture_settings, NULL, NULL, &err), ENOENT,
        &err, "not found");
    fixture_expect(registry_set_reserved(f->registry, &bobs, 0, &err), ENOENT, &err, "not found");
    fixture_expect(registry_list(f->registry, "bob", true, NULL, 0, &page, &err), 0, &err, "");
    assert_int_equal(page.n, 0);
    fixture_expect(find(f, "alice", "secret", NULL, &err), 0, &err, "");
}

static void test_names(void **state)
{
    struct registry_fixture *f = *state;
    char longest[66];
    const char *const bad[] = {"",
                               "a b",
                               "a/b",
                               "../x",
                               "a\nb",
                               "\xff\xfe",
                               "a.b",
                               "caf\xc3\xa9",
                               "a:b",
                               "$LATEST",
                               "'; DROP TABLE tenants",
                               "%s%n",
                               longest};
    struct error err = {0};

    memset(longest, 'a', 65);
    longest[65] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct function_key key = fixture_key(bad[i], NULL);

        fixture_expect(create(f, &key, &fixture_settings, &err), EINVAL, &err, "function name");
        fixture_expect(find(f, "alice", bad[i], NULL, &err), EINVAL, &err, "function name");
        fixture_expect(find(f, bad[i], "f", NULL, &err), EINVAL, &err, "tenant");
        for (const char *at = err.text; *at; at++)
            assert_in_range(*at, 0x20, 0x7e);
    }
    longest[64] = '\0';
    struct function_key key = fixture_key(longest, NULL);
    fixture_expect(create(f, &key, &fixture_settings, &err), 0, &err, "");
}

/* --- settings ------------------------------------------------------------------------------------
 */

static void refuse(struct registry_fixture *f, struct function_settings settings, const char *words)
{
    struct function_key key = fixture_key("f", NULL);
    struct error err = {0};
    struct function *before = fixture_find(f, "f", NULL), *after;

    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), EINVAL,
                   &err, words);
    after = fixture_find(f, "f", NULL);
    assert_string_equal(before->revision_id, after->revision_id);
    function_free(before);
    function_free(after);
}

#define REFUSE(f, words, member, ...)                                                              \
    refuse(f, (struct function_settings){.members = member, __VA_ARGS__}, words)

static void test_numbers(void **state)
{
    struct registry_fixture *f = *state;

    fixture_create(f, "f", "x");
    REFUSE(f, "Timeout", SETS_TIMEOUT, .timeout_s = 0);
    REFUSE(f, "Timeout is 901, 1 to 900", SETS_TIMEOUT, .timeout_s = 901);
    REFUSE(f, "Timeout", SETS_TIMEOUT, .timeout_s = INT64_MIN);
    REFUSE(f, "MemorySize", SETS_MEMORY, .memory_mib = 127);
    REFUSE(f, "MemorySize", SETS_MEMORY, .memory_mib = 10241);
    REFUSE(f, "MemorySize", SETS_MEMORY, .memory_mib = (1ll << 32) + 128);
    REFUSE(f, "EphemeralStorage", SETS_TMP, .tmp_mib = 511);
    REFUSE(f, "EphemeralStorage", SETS_TMP, .tmp_mib = 10241);
    REFUSE(f, "TracingConfig", SETS_TRACING, .tracing = 2);
    REFUSE(f, "TracingConfig", SETS_TRACING, .tracing = -1);
}

static void test_texts(void **state)
{
    struct registry_fixture *f = *state;
    char text[1100];

    fixture_create(f, "f", "x");
    memset(text, 'a', sizeof(text));
    text[129] = '\0';
    REFUSE(f, "the handler has 129", SETS_HANDLER, .handler = text);
    REFUSE(f, "white space", SETS_HANDLER, .handler = "a b");
    REFUSE(f, "white space", SETS_HANDLER, .handler = "a\n");
    REFUSE(f, "the handler", SETS_HANDLER, .handler = "");
    REFUSE(f, "the handler", SETS_HANDLER, .handler = NULL);
    REFUSE(f, "UTF-8", SETS_HANDLER, .handler = "\xc0\x80");
    REFUSE(f, "runtime 'cobol' is not supported", SETS_RUNTIME, .runtime = "cobol");
    REFUSE(f, "runtime", SETS_RUNTIME, .runtime = NULL);
    REFUSE(f, "role", SETS_ROLE, .role = "root");
    REFUSE(f, "role", SETS_ROLE, .role = "arn:aws:iam::12345678901:role/x");
    REFUSE(f, "role", SETS_ROLE, .role = "arn:aws:iam::123456789012:role/");
    REFUSE(f, "role", SETS_ROLE, .role = "arn:aws:iam::123456789012:role/x y");
    text[129] = 'a';
    text[257] = '\0';
    REFUSE(f, "the description has 257", SETS_DESCRIPTION, .description = text);
    text[257] = 'a';
    text[1099] = '\0';
    REFUSE(f, "the description is longer", SETS_DESCRIPTION, .description = text);
    REFUSE(f, "UTF-8", SETS_DESCRIPTION, .description = "\xed\xa0\x80");
    REFUSE(f, "UTF-8", SETS_DESCRIPTION, .description = "\xf4\x90\x80\x80");
    REFUSE(f, "destination", SETS_DEAD_LETTER, .dead_letter = "sqs:x");
}

static void test_description_is_counted_in_characters(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function_settings settings = {.members = SETS_DESCRIPTION};
    char text[4 * 256 + 1];
    struct error err = {0};

    fixture_create(f, "f", "x");
    for (size_t i = 0; i < 256; i++)
        memcpy(text + 4 * i, "\xf0\x9f\xa6\x9f", 4);
    text[1024] = '\0';
    settings.description = text;
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), 0,
                   &err, "");
    struct function *function = fixture_find(f, "f", NULL);
    assert_string_equal(function->description, text);
    function_free(function);
}

static void refuse_variable(struct registry_fixture *f, const char *name, const char *value,
                            const char *words)
{
    const struct text_pair pair = {name, value};

    REFUSE(f, words, SETS_ENVIRONMENT, .environment = &pair, .n_environment = 1);
}

static void test_environment(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    const struct text_pair twice[] = {{"NAME", "1"}, {"OTHER", "2"}, {"NAME", "3"}};
    char value[4096];
    struct error err = {0};

    fixture_create(f, "f", "x");
    refuse_variable(f, "A", "", "two at least");
    refuse_variable(f, "", "", "environment variable");
    refuse_variable(f, "1A", "", "environment variable");
    refuse_variable(f, "_A", "", "environment variable");
    refuse_variable(f, "A=B", "", "environment variable");
    refuse_variable(f, "A\xc3\xa4", "", "environment variable");
    refuse_variable(f, "AWS_REGION", "mars", "reserved");
    refuse_variable(f, "LAMBDA_TASK_ROOT", "/", "reserved");
    refuse_variable(f, "NAME", "\x80", "UTF-8");
    REFUSE(f, "twice", SETS_ENVIRONMENT, .environment = twice, .n_environment = 3);
    memset(value, 'v', sizeof(value));
    value[4093] = '\0';
    refuse_variable(f, "NAME", value, "4096 bytes");
    value[4092] = '\0';
    struct text_pair full = {"NAME", value};
    struct function_settings settings = {
        .members = SETS_ENVIRONMENT, .environment = &full, .n_environment = 1};
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), 0,
                   &err, "");
    fixture_build(f, "f", NULL);
    /* And none again. */
    settings.n_environment = 0;
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), 0,
                   &err, "");
    struct function *function = fixture_find(f, "f", NULL);
    assert_int_equal(function->n_environment, 0);
    function_free(function);
}

static void test_new_function_needs_runtime_and_handler(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function_settings settings = {.members = SETS_HANDLER, .handler = "a.b"};
    struct error err = {0};

    fixture_expect(create(f, &key, &settings, &err), EINVAL, &err, "Runtime");
    settings = (struct function_settings){.members = SETS_RUNTIME, .runtime = "provided"};
    fixture_expect(create(f, &key, &settings, &err), EINVAL, &err, "Handler");
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM code"), 0);
}

/* --- changing ------------------------------------------------------------------------------------
 */

static void test_update_changes_revision_and_build(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), version = fixture_key("f", "1");
    struct function_settings settings = {.members = SETS_TIMEOUT, .timeout_s = 10};
    struct function *before, *after = NULL, *same = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    before = fixture_find(f, "f", NULL);
    fixture_now_ms += 1000;
    fixture_expect(
        registry_update_settings(f->registry, &key, &settings, before->revision_id, &after, &err),
        0, &err, "");
    assert_int_equal(after->timeout_s, 10);
    assert_string_equal(after->handler, "app.handler");
    assert_string_not_equal(after->revision_id, before->revision_id);
    assert_true(after->build_id > before->build_id);
    assert_int_equal(after->modified_ms, fixture_now_ms);
    assert_int_equal(after->state, FUNCTION_ACTIVE);
    assert_int_equal(after->update_status, UPDATE_IN_PROGRESS);
    /* An old revision; a build that is not finished; a qualifier. */
    fixture_expect(
        registry_update_settings(f->registry, &key, &settings, before->revision_id, NULL, &err),
        ESTALE, &err, "RevisionId");
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), EBUSY,
                   &err, "in progress");
    fixture_expect(registry_check_update(f->registry, &key, NULL, &err), EBUSY, &err, "");
    fixture_expect(registry_update_settings(f->registry, &version, &settings, NULL, NULL, &err),
                   EINVAL, &err, "$LATEST");
    fixture_expect(registry_finish_build(f->registry, before->build_id, NULL, &err), ESTALE, &err,
                   "replaced");
    fixture_build(f, "f", NULL);
    fixture_expect(registry_check_update(f->registry, &key, after->revision_id, &err), 0, &err, "");
    /* The same again: nothing to build. */
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, &same, &err), 0,
                   &err, "");
    assert_int_equal(same->build_id, after->build_id);
    assert_int_equal(same->update_status, UPDATE_SUCCESSFUL);
    function_free(before);
    function_free(after);
    function_free(same);
}

static void test_failed_builds(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct code_staged *code = fixture_stage(f, "x");
    struct function *function = NULL;
    struct error err = {0};
    const struct build_failure no_module = {"FunctionError", "no\x1bmodule\n"};
    const struct build_failure broken = {"InternalError", "broken"};
    struct pending_build pending = {.build_id = 0};
    bool waits = false;

    fixture_expect(registry_create_function(f->registry, &key, &fixture_settings, code, NULL, 0,
                                            &function, &err),
                   0, &err, "");
    assert_int_equal(registry_next_pending(f->registry, 0, NULL, 0, &pending, &waits, &err), 1);
    assert_int_equal(pending.build_id, function->build_id);
    fixture_expect(registry_finish_build(f->registry, function->build_id, &no_module, &err), 0,
                   &err, "");
    function_free(function);
    function = fixture_find(f, "f", NULL);
    assert_int_equal(function->state, FUNCTION_FAILED);
    assert_string_equal(function->reason, "no?module");
    function_free(function);
    fixture_expect(registry_publish(f->registry, &key, NULL, NULL, NULL, NULL, &err), EBUSY, &err,
                   "Failed");
    /* The same code once more is tried once more. */
    fixture_expect(registry_update_code(f->registry, &key, code, NULL, &function, &err), 0, &err,
                   "");
    assert_int_equal(function->state, FUNCTION_PENDING);
    fixture_expect(registry_finish_build(f->registry, function->build_id, NULL, &err), 0, &err, "");
    function_free(function);
    /* A failed update leaves the state Active. */
    struct function_settings settings = {.members = SETS_MEMORY, .memory_mib = 256};
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, &function, &err), 0,
                   &err, "");
    fixture_expect(registry_finish_build(f->registry, function->build_id, &broken, &err), 0, &err,
                   "");
    function_free(function);
    function = fixture_find(f, "f", NULL);
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    assert_int_equal(function->update_status, UPDATE_FAILED);
    assert_string_equal(function->reason, "broken");
    assert_string_equal(function->reason_code, "InternalError");
    function_free(function);
    assert_int_equal(registry_next_pending(f->registry, 0, NULL, 0, &pending, &waits, &err), 0);
    assert_false(waits);
    code_staged_free(code);
}

/* --- versions ------------------------------------------------------------------------------------
 */

static void test_publish(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function *latest, *version = NULL;
    struct error err = {0};

    fixture_create(f, "f", "one");
    latest = fixture_find(f, "f", NULL);
    fixture_expect(registry_publish(f->registry, &key, "wrong", NULL, NULL, NULL, &err), EINVAL,
                   &err, "CodeSHA256");
    fixture_expect(registry_publish(f->registry, &key, NULL, "wrong", NULL, NULL, &err), ESTALE,
                   &err, "RevisionId");
    fixture_expect(registry_publish(f->registry, &key, latest->code_sha256, latest->revision_id,
                                    "first", &version, &err),
                   0, &err, "");
    assert_int_equal(version->version, 1);
    assert_string_equal(version->version_text, "1");
    assert_string_equal(version->description, "first");
    assert_string_equal(version->code_sha256, latest->code_sha256);
    assert_int_equal(version->state, FUNCTION_PENDING);
    assert_int_not_equal(version->build_id, latest->build_id);
    assert_string_not_equal(version->revision_id, latest->revision_id);
    function_free(version);
    function_free(latest);
    /* Nothing changed: the same one. */
    assert_int_equal(fixture_publish(f, "f"), 1);
    fixture_change(f, "f", "two");
    assert_int_equal(fixture_publish(f, "f"), 2);
    /* Back to the first's code: that is a change against the last. */
    fixture_change(f, "f", "one");
    assert_int_equal(fixture_publish(f, "f"), 3);
    assert_int_equal(fixture_publish(f, "f"), 3);
    latest = fixture_find(f, "f", "2");
    assert_string_equal(latest->description, "");
    function_free(latest);
    fixture_expect(find(f, "alice", "f", "4", &err), ENOENT, &err, "not found: f:4");
    fixture_expect(find(f, "alice", "f", "0", &err), ENOENT, &err, "not found");
    fixture_expect(find(f, "alice", "f", "01", &err), ENOENT, &err, "not found");
    fixture_expect(find(f, "alice", "f", "4294967297", &err), ENOENT, &err, "not found");
    fixture_expect(find(f, "alice", "f", "a b", &err), EINVAL, &err, "qualifier");
}

static void test_numbers_are_never_used_again(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), second = fixture_key("f", "2");
    struct error err = {0};

    fixture_create(f, "f", "one");
    fixture_publish(f, "f");
    fixture_change(f, "f", "two");
    fixture_publish(f, "f");
    fixture_expect(registry_delete(f->registry, &second, &err), 0, &err, "");
    fixture_expect(registry_delete(f->registry, &second, &err), ENOENT, &err, "not found");
    assert_int_equal(fixture_publish(f, "f"), 3);
    fixture_expect(registry_delete(f->registry, &key, &err), 0, &err, "");
    fixture_create(f, "f", "one");
    assert_int_equal(fixture_publish(f, "f"), 4);
    /* Another tenant's begin at 1. */
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM retired"), 1);
}

static void test_delete_takes_everything(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), live = fixture_key("f", "live");
    struct function_key first = fixture_key("f", "1"), latest = fixture_key("f", "$LATEST");
    const struct text_pair tag = {"a", "b"};
    struct alias_change alias = {.version = "1"};
    struct url_change url = {.auth = URL_AUTH_NONE, .mode = -1};
    struct event_config_change config = {.retries = 0, .max_age_s = -1};
    struct tenant alice;
    struct error err = {0};
    uint64_t freed = 0;

    fixture_create(f, "f", "one");
    fixture_publish(f, "f");
    fixture_expect(registry_create_alias(f->registry, &live, &alias, NULL, &err), 0, &err, "");
    fixture_expect(registry_put_provisioned(f->registry, &live, 2, NULL, &err), 0, &err, "");
    fixture_expect(registry_create_url(f->registry, &live, &url, NULL, &err), 0, &err, "");
    fixture_expect(registry_put_event_config(f->registry, &first, &config, NULL, &err), 0, &err,
                   "");
    fixture_expect(registry_tag(f->registry, &key, &tag, 1, &err), 0, &err, "");
    fixture_expect(registry_set_reserved(f->registry, &key, 10, &err), 0, &err, "");
    fixture_expect(registry_delete(f->registry, &latest, &err), EINVAL, &err, "$LATEST");
    fixture_expect(registry_delete(f->registry, &live, &err), EINVAL, &err, "live");
    fixture_expect(registry_delete(f->registry, &first, &err), EEXIST, &err, "alias 'live'");
    fixture_expect(registry_get_tenant(f->registry, "alice", &alice, &err), 0, &err, "");
    assert_int_equal(alice.functions, 1);
    assert_int_equal(alice.unreserved_concurrency, 990);
    assert_true(alice.code_bytes > 0);

    fixture_expect(registry_delete(f->registry, &key, &err), 0, &err, "");
    assert_int_equal(fixture_number(f, "SELECT (SELECT count(*) FROM functions) +"
                                       "(SELECT count(*) FROM versions) +"
                                       "(SELECT count(*) FROM aliases) +"
                                       "(SELECT count(*) FROM provisioned) +"
                                       "(SELECT count(*) FROM urls) +"
                                       "(SELECT count(*) FROM event_configs) +"
                                       "(SELECT count(*) FROM tags)"),
                     0);
    fixture_expect(registry_get_tenant(f->registry, "alice", &alice, &err), 0, &err, "");
    assert_int_equal(alice.functions, 0);
    assert_int_equal(alice.unreserved_concurrency, 1000);
    assert_int_equal(alice.code_bytes, 0);
    assert_int_equal(fixture_number(f, "SELECT uses FROM code"), 0);
    fixture_expect(registry_collect(f->registry, &freed, &err), 0, &err, "");
    assert_true(freed > 0);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM code"), 0);
    fixture_expect(registry_delete(f->registry, &key, &err), ENOENT, &err, "not found");
}

/* --- listings ------------------------------------------------------------------------------------
 */

static void test_lists_in_pages(void **state)
{
    struct registry_fixture *f = *state;
    struct function_page page;
    struct error err = {0};
    char name[16], marker[MARKER_BYTES] = "";
    size_t seen = 0;

    for (int i = 0; i < 57; i++) {
        snprintf(name, sizeof(name), "f%02d", i);
        fixture_create(f, name, "x");
    }
    fixture_publish(f, "f03");
    do {
        fixture_expect(registry_list(f->registry, "alice", false, marker, 10, &page, &err), 0, &err,
                       "");
        for (size_t i = 0; i < page.n; i++) {
            snprintf(name, sizeof(name), "f%02zu", seen++);
            assert_string_equal(page.functions[i]->name, name);
        }
        memcpy(marker, page.next_marker, sizeof(marker));
        function_page_done(&page);
    } while (marker[0]);
    assert_int_equal(seen, 57);
    /* More than a page holds; exactly what there is; with versions, across one function. */
    fixture_expect(registry_list(f->registry, "alice", false, NULL, 10000, &page, &err), 0, &err,
                   "");
    assert_int_equal(page.n, 50);
    assert_string_not_equal(page.next_marker, "");
    function_page_done(&page);
    fixture_expect(registry_list(f->registry, "alice", false, "f49:0", 7, &page, &err), 0, &err,
                   "");
    assert_int_equal(page.n, 7);
    assert_string_equal(page.next_marker, "");
    function_page_done(&page);
    fixture_expect(registry_list(f->registry, "alice", true, "f02:0", 1, &page, &err), 0, &err, "");
    assert_string_equal(page.functions[0]->version_text, "$LATEST");
    memcpy(marker, page.next_marker, sizeof(marker));
    function_page_done(&page);
    fixture_expect(registry_list(f->registry, "alice", true, marker, 2, &page, &err), 0, &err, "");
    assert_string_equal(page.functions[0]->name, "f03");
    assert_string_equal(page.functions[0]->version_text, "1");
    assert_string_equal(page.functions[1]->name, "f04");
    function_page_done(&page);
}

static void test_lists_versions(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), none = fixture_key("g", NULL);
    struct function_page page;
    struct error err = {0};

    fixture_create(f, "f", "1");
    for (int i = 2; i <= 12; i++) {
        char content[16];

        fixture_publish(f, "f");
        snprintf(content, sizeof(content), "%d", i);
        fixture_change(f, "f", content);
    }
    fixture_expect(registry_list_versions(f->registry, &key, NULL, 3, &page, &err), 0, &err, "");
    assert_int_equal(page.n, 3);
    assert_string_equal(page.functions[0]->version_text, "$LATEST");
    assert_string_equal(page.functions[2]->version_text, "2");
    char marker[MARKER_BYTES];
    memcpy(marker, page.next_marker, sizeof(marker));
    function_page_done(&page);
    fixture_expect(registry_list_versions(f->registry, &key, marker, 0, &page, &err), 0, &err, "");
    assert_int_equal(page.n, 9);
    assert_string_equal(page.functions[8]->version_text, "11"); /* by number, not by text */
    function_page_done(&page);
    fixture_expect(registry_list_versions(f->registry, &none, NULL, 0, &page, &err), ENOENT, &err,
                   "not found");
}

static void test_bad_markers(void **state)
{
    struct registry_fixture *f = *state;
    const char *const bad[] = {
        "f", ":", ":0", "f:", "f:x", "f:-1", "a b:0", "f:0:0x", "f:99999999999", "\xff:0"};
    struct function_key key = fixture_key("f", NULL);
    struct function_page page;
    struct error err = {0};

    fixture_create(f, "f", "1");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        fixture_expect(registry_list(f->registry, "alice", true, bad[i], 0, &page, &err), EINVAL,
                       &err, "Marker");
    fixture_expect(registry_list_versions(f->registry, &key, "g:1", 0, &page, &err), EINVAL, &err,
                   "Marker");
    fixture_expect(registry_list(f->registry, "alice", true, NULL, -1, &page, &err), EINVAL, &err,
                   "MaxItems");
    fixture_expect(registry_list(f->registry, "alice", true, NULL, 10001, &page, &err), EINVAL,
                   &err, "MaxItems");
    fixture_expect(registry_list(f->registry, "carol", true, NULL, 0, &page, &err), ENOENT, &err,
                   "tenant");
}

/* --- tenants -------------------------------------------------------------------------------------
 */

static void test_tenants(void **state)
{
    struct registry_fixture *f = *state;
    struct tenant tenant = {.name = "carol", .account_id = "000000000003", .concurrency = 200};
    struct error err = {0};

    fixture_expect(registry_get_tenant(f->registry, "carol", &tenant, &err), ENOENT, &err, "carol");
    assert_int_equal(tenant.concurrency, 200);
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), 0, &err, "");
    uint64_t generation = registry_generation(f->registry);
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), 0, &err, "");
    assert_int_equal(registry_generation(f->registry), generation);
    tenant.code_limit_bytes = 5;
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), 0, &err, "");
    assert_true(registry_generation(f->registry) > generation);
    fixture_expect(registry_get_tenant(f->registry, "carol", &tenant, &err), 0, &err, "");
    assert_int_equal(tenant.concurrency, 200);
    assert_int_equal(tenant.code_limit_bytes, 5);
    strcpy(tenant.name, "dave");
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), EEXIST, &err, "carol");
    strcpy(tenant.account_id, "12345678901x");
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), EINVAL, &err, "12 digits");
    strcpy(tenant.name, "d d");
    fixture_expect(registry_put_tenant(f->registry, &tenant, &err), EINVAL, &err, "tenant");
}

static void test_code_quota(void **state)
{
    struct registry_fixture *f = *state;
    struct tenant alice = {.name = "alice", .account_id = "000000000001"};
    struct function_key key = fixture_key("f", NULL), other = fixture_key("g", NULL);
    struct code_staged *code = fixture_stage(f, "x"), *more = fixture_stage(f, "xx");
    struct error err = {0};

    fixture_create(f, "f", "x");
    alice.code_limit_bytes = code_staged_len_bytes(code) + 1;
    fixture_expect(registry_put_tenant(f->registry, &alice, &err), 0, &err, "");
    fixture_expect(create(f, &other, &fixture_settings, &err), EDQUOT, &err, "limit exceeded");
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM functions"), 1);
    /* Replacing what is there needs only the difference; publishing needs all of it again. */
    fixture_expect(registry_update_code(f->registry, &key, more, NULL, NULL, &err), 0, &err, "");
    fixture_build(f, "f", NULL);
    fixture_expect(registry_publish(f->registry, &key, NULL, NULL, NULL, NULL, &err), EDQUOT, &err,
                   "limit exceeded");
    code_staged_free(code);
    code_staged_free(more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create_shows_what_was_set, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_create_defaults, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_create_twice, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_tenants_do_not_see_each_other, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_names, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_numbers, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_texts, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_description_is_counted_in_characters, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_environment, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_new_function_needs_runtime_and_handler, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_update_changes_revision_and_build, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_failed_builds, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_publish, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_numbers_are_never_used_again, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_delete_takes_everything, fixture_set_up,
                                        fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_lists_in_pages, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_lists_versions, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_bad_markers, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_tenants, fixture_set_up, fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_code_quota, fixture_set_up, fixture_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
