/* See registry_fixture.h. */
#include "registry_fixture.h"

#include <archive.h>
#include <archive_entry.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

uint64_t fixture_now_ms = 1700000000000;

uint64_t fixture_clock(void)
{
    return fixture_now_ms;
}

const struct function_settings fixture_settings = {
    .members = SETS_RUNTIME | SETS_HANDLER,
    .runtime = "python3.11",
    .handler = "app.handler",
};

void fixture_expect(int r, int code, const struct error *err, const char *words)
{
    if (r != -code)
        fail_msg("returned %d instead of %d: %s", r, -code, err->text);
    if (code && !strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

void fixture_open_again(struct registry_fixture *fixture)
{
    struct registry_options options = {.state = fixture->state, .now_ms = fixture_clock};
    struct error err = {0};

    fixture_expect(registry_open(&options, &fixture->registry, &err), 0, &err, "");
}

void fixture_close_registry(struct registry_fixture *fixture)
{
    registry_close(fixture->registry);
    fixture->registry = NULL;
}

void fixture_open(struct registry_fixture *fixture)
{
    struct tenant alice = {.name = "alice", .account_id = "000000000001"};
    struct tenant bob = {.name = "bob", .account_id = "000000000002"};
    struct error err = {0};

    *fixture = (struct registry_fixture){.state = "/tmp/mayfly-test-XXXXXX"};
    assert_non_null(mkdtemp(fixture->state));
    fixture_open_again(fixture);
    fixture_expect(registry_put_tenant(fixture->registry, &alice, &err), 0, &err, "");
    fixture_expect(registry_put_tenant(fixture->registry, &bob, &err), 0, &err, "");
}

void fixture_close(struct registry_fixture *fixture)
{
    char command[96];

    fixture_close_registry(fixture);
    snprintf(command, sizeof(command), "rm -rf '%s'", fixture->state);
    assert_int_equal(system(command), 0);
}

int fixture_set_up(void **state)
{
    struct registry_fixture *fixture = calloc(1, sizeof(*fixture));

    if (!fixture)
        return -1;
    fixture_open(fixture);
    *state = fixture;
    return 0;
}

int fixture_tear_down(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

const char *fixture_path(const struct registry_fixture *fixture, const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", fixture->state, name);
    return path;
}

void fixture_zip(const char *name, const void *content, size_t len, uint8_t **ret_data,
                 size_t *ret_len)
{
    struct archive *archive = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    size_t size = len + 4096;
    uint8_t *data = malloc(size);

    assert_non_null(data);
    archive_write_set_format_zip(archive);
    archive_write_set_bytes_in_last_block(archive, 1);
    assert_int_equal(archive_write_open_memory(archive, data, size, ret_len), ARCHIVE_OK);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (int64_t)len);
    assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
    assert_int_equal(archive_write_data(archive, content, len), len);
    archive_entry_free(entry);
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
    *ret_data = data;
}

struct code_staged *fixture_stage(struct registry_fixture *fixture, const char *content)
{
    struct code_staged *staged = NULL;
    struct error err = {0};
    uint8_t *zip;
    size_t len;

    fixture_zip("app.py", content, strlen(content), &zip, &len);
    fixture_expect(
        code_store_stage(registry_code_store(fixture->registry), zip, len, &staged, &err), 0, &err,
        "");
    free(zip);
    return staged;
}

struct function_key fixture_key(const char *name, const char *qualifier)
{
    return (struct function_key){.tenant = "alice", .name = name, .qualifier = qualifier};
}

struct function *fixture_find(struct registry_fixture *fixture, const char *name,
                              const char *qualifier)
{
    struct function_key key = fixture_key(name, qualifier);
    struct function *function = NULL;
    struct error err = {0};

    fixture_expect(registry_find(fixture->registry, &key, -1, &function, &err), 0, &err, "");
    return function;
}

void fixture_build(struct registry_fixture *fixture, const char *name, const char *qualifier)
{
    struct function *function = fixture_find(fixture, name, qualifier);
    struct error err = {0};

    fixture_expect(registry_finish_build(fixture->registry, function->build_id, NULL, &err), 0,
                   &err, "");
    function_free(function);
}

void fixture_create(struct registry_fixture *fixture, const char *name, const char *content)
{
    struct code_staged *code = fixture_stage(fixture, content);
    struct function_key key = fixture_key(name, NULL);
    struct error err = {0};

    fixture_expect(registry_create_function(fixture->registry, &key, &fixture_settings, code, NULL,
                                            0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
    fixture_build(fixture, name, NULL);
}

void fixture_change(struct registry_fixture *fixture, const char *name, const char *content)
{
    struct code_staged *code = fixture_stage(fixture, content);
    struct function_key key = fixture_key(name, NULL);
    struct error err = {0};

    fixture_expect(registry_update_code(fixture->registry, &key, code, NULL, NULL, &err), 0, &err,
                   "");
    code_staged_free(code);
    fixture_build(fixture, name, NULL);
}

uint32_t fixture_publish(struct registry_fixture *fixture, const char *name)
{
    struct function_key key = fixture_key(name, NULL);
    struct function *version = NULL;
    struct error err = {0};
    uint32_t number;

    fixture_expect(registry_publish(fixture->registry, &key, NULL, NULL, NULL, &version, &err), 0,
                   &err, "");
    number = version->version;
    function_free(version);
    return number;
}

int64_t fixture_number(struct registry_fixture *fixture, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    sqlite3 *handle = NULL;
    int64_t number;

    assert_int_equal(sqlite3_open(fixture_path(fixture, "mayfly.db"), &handle), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(handle);
    return number;
}
