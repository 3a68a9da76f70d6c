/* Aliases, concurrency, URLs, event configurations, tags: every rule. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "registry_fixture.h"

/* alice's "f" with versions 1 and 2. */
static int set_up(void **state)
{
    if (fixture_set_up(state) != 0)
        return -1;
    fixture_create(*state, "f", "one");
    fixture_publish(*state, "f");
    fixture_change(*state, "f", "two");
    fixture_publish(*state, "f");
    return 0;
}

static void put_alias(struct registry_fixture *f, const char *name, const char *version)
{
    struct function_key key = fixture_key("f", name);
    struct alias_change change = {.version = version};
    struct error err = {0};

    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), 0, &err, "");
}

/* --- aliases -------------------------------------------------------------------------------------
 */

static void test_aliases(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", "live"), none = fixture_key("f", "none");
    struct alias_change change = {.version = "1", .description = "what people get"};
    struct alias alias, again;
    struct error err = {0};

    fixture_expect(registry_create_alias(f->registry, &key, &change, &alias, &err), 0, &err, "");
    assert_string_equal(alias.name, "live");
    assert_string_equal(alias.description, "what people get");
    assert_int_equal(alias.version, 1);
    assert_int_equal(alias.additional_version, 0);
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), EEXIST, &err,
                   "already exists");
    struct function *function = fixture_find(f, "f", "live");
    assert_string_equal(function->version_text, "1");
    assert_string_equal(function->alias, "live");
    function_free(function);
    change = (struct alias_change){.version = "2"};
    fixture_expect(registry_update_alias(f->registry, &key, &change, "old", NULL, &err), ESTALE,
                   &err, "RevisionId");
    fixture_expect(
        registry_update_alias(f->registry, &key, &change, alias.revision_id, &again, &err), 0, &err,
        "");
    assert_string_not_equal(again.revision_id, alias.revision_id);
    assert_string_equal(again.description, "what people get");
    fixture_expect(registry_get_alias(f->registry, &key, &alias, &err), 0, &err, "");
    assert_int_equal(alias.version, 2);
    assert_string_equal(alias.revision_id, again.revision_id);
    fixture_expect(registry_update_alias(f->registry, &none, &change, NULL, NULL, &err), ENOENT,
                   &err, "Alias not found");
    fixture_expect(registry_get_alias(f->registry, &none, &alias, &err), ENOENT, &err, "Alias");
    fixture_expect(registry_delete_alias(f->registry, &key, &err), 0, &err, "");
    fixture_expect(registry_delete_alias(f->registry, &key, &err), 0, &err, "");
    fixture_expect(registry_get_alias(f->registry, &key, &alias, &err), ENOENT, &err, "Alias");
}

static void test_bad_aliases(void **state)
{
    struct registry_fixture *f = *state;
    const char *const names[] = {"123", "$LATEST", "", "a b", "a.b", "\xc3\xa4"};
    struct alias_change change = {.version = "1"};
    struct error err = {0};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct function_key key = fixture_key("f", names[i]);

        fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), EINVAL, &err,
                       "");
    }
    struct function_key key = fixture_key("f", "live");
    change.version = NULL;
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), EINVAL, &err,
                   "FunctionVersion");
    change.version = "live";
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), EINVAL, &err,
                   "version");
    change.version = "";
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), EINVAL, &err,
                   "version");
    change.version = "9";
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), ENOENT, &err,
                   "version not found: 9");
    change.version = "$LATEST";
    fixture_expect(registry_create_alias(f->registry, &key, &change, NULL, &err), 0, &err, "");
    struct function_key other = {"bob", "f", "live"};
    struct alias alias;
    fixture_expect(registry_get_alias(f->registry, &other, &alias, &err), ENOENT, &err,
                   "Function not found");
}

static uint32_t version_at(struct registry_fixture *f, double roll)
{
    struct function_key key = fixture_key("f", "live");
    struct function *function = NULL;
    struct error err = {0};
    uint32_t version;

    fixture_expect(registry_find(f->registry, &key, roll, &function, &err), 0, &err, "");
    version = function->version;
    function_free(function);
    return version;
}

static void test_weighted_routing(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", "live"), second = fixture_key("f", "2");
    struct alias_change change = {
        .sets_routing = true, .additional_version = "2", .additional_weight = 0.25};
    struct error err = {0};

    put_alias(f, "live", "1");
    fixture_expect(registry_update_alias(f->registry, &key, &change, NULL, NULL, &err), 0, &err,
                   "");
    assert_int_equal(version_at(f, -1), 1);
    assert_int_equal(version_at(f, 0), 2);
    assert_int_equal(version_at(f, 0.2499), 2);
    assert_int_equal(version_at(f, 0.25), 1);
    assert_int_equal(version_at(f, 0.9999), 1);
    fixture_expect(registry_delete(f->registry, &second, &err), EEXIST, &err, "alias 'live'");
    /* A change of something else keeps it; but it must still make sense. */
    fixture_expect(registry_update_alias(f->registry, &key,
                                         &(struct alias_change){.description = "x"}, NULL, NULL,
                                         &err),
                   0, &err, "");
    assert_int_equal(version_at(f, 0), 2);
    fixture_expect(registry_update_alias(f->registry, &key, &(struct alias_change){.version = "2"},
                                         NULL, NULL, &err),
                   EINVAL, &err, "same");
    fixture_expect(registry_update_alias(f->registry, &key,
                                         &(struct alias_change){.version = "$LATEST"}, NULL, NULL,
                                         &err),
                   EINVAL, &err, "$LATEST");
    const double bad[] = {-0.1, 1.1, NAN, INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        change.additional_weight = bad[i];
        fixture_expect(registry_update_alias(f->registry, &key, &change, NULL, NULL, &err), EINVAL,
                       &err, "weight");
    }
    change.additional_weight = 1.0;
    change.additional_version = "$LATEST";
    fixture_expect(registry_update_alias(f->registry, &key, &change, NULL, NULL, &err), EINVAL,
                   &err, "$LATEST");
    change.additional_version = "9";
    fixture_expect(registry_update_alias(f->registry, &key, &change, NULL, NULL, &err), ENOENT,
                   &err, "not found: 9");
    change.additional_version = NULL;
    fixture_expect(registry_update_alias(f->registry, &key, &change, NULL, NULL, &err), 0, &err,
                   "");
    assert_int_equal(version_at(f, 0), 1);
    fixture_expect(registry_delete(f->registry, &second, &err), 0, &err, "");
}

static void test_alias_listing(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct alias_page *page = calloc(1, sizeof(*page));
    struct error err = {0};

    assert_non_null(page);
    put_alias(f, "c", "1");
    put_alias(f, "a", "1");
    put_alias(f, "b", "2");
    fixture_expect(registry_list_aliases(f->registry, &key, NULL, NULL, 2, page, &err), 0, &err,
                   "");
    assert_int_equal(page->n, 2);
    assert_string_equal(page->aliases[1].name, "b");
    assert_string_equal(page->next_marker, "b");
    fixture_expect(registry_list_aliases(f->registry, &key, NULL, "b", 2, page, &err), 0, &err, "");
    assert_int_equal(page->n, 1);
    assert_string_equal(page->next_marker, "");
    fixture_expect(registry_list_aliases(f->registry, &key, "1", NULL, 0, page, &err), 0, &err, "");
    assert_int_equal(page->n, 2);
    fixture_expect(registry_list_aliases(f->registry, &key, "$LATEST", NULL, 0, page, &err), 0,
                   &err, "");
    assert_int_equal(page->n, 0);
    fixture_expect(registry_list_aliases(f->registry, &key, NULL, "\n", 0, page, &err), EINVAL,
                   &err, "Marker");
    free(page);
}

/* --- concurrency ---------------------------------------------------------------------------------
 */

static void test_reserved(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), other = fixture_key("g", NULL);
    struct tenant alice;
    struct error err = {0};

    fixture_create(f, "g", "x");
    fixture_expect(registry_set_reserved(f->registry, &key, 901, &err), EINVAL, &err, "[100]");
    fixture_expect(registry_set_reserved(f->registry, &key, 900, &err), 0, &err, "");
    fixture_expect(registry_set_reserved(f->registry, &other, 1, &err), EINVAL, &err, "[100]");
    fixture_expect(registry_set_reserved(f->registry, &other, 0, &err), 0, &err, "");
    fixture_expect(registry_set_reserved(f->registry, &key, 500, &err), 0, &err, "");
    fixture_expect(registry_get_tenant(f->registry, "alice", &alice, &err), 0, &err, "");
    assert_int_equal(alice.unreserved_concurrency, 500);
    struct function *function = fixture_find(f, "f", "1");
    assert_int_equal(function->reserved_concurrency, 500);
    function_free(function);
    fixture_expect(registry_set_reserved(f->registry, &key, -2, &err), EINVAL, &err, "Reserved");
    fixture_expect(registry_set_reserved(f->registry, &key, INT64_MAX, &err), EINVAL, &err, "");
    fixture_expect(registry_set_reserved(f->registry, &key, RESERVED_NONE, &err), 0, &err, "");
    fixture_expect(registry_get_tenant(f->registry, "alice", &alice, &err), 0, &err, "");
    assert_int_equal(alice.unreserved_concurrency, 1000);
}

static int count_provisioned(void *opaque, const char *tenant, const struct provisioned *item)
{
    assert_string_equal(tenant, "alice");
    *(uint32_t *)opaque += item->requested;
    return 0;
}

static void test_provisioned(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key latest = fixture_key("f", NULL), first = fixture_key("f", "1");
    struct function_key live = fixture_key("f", "live"), none = fixture_key("f", "none");
    struct provisioned_page *page = calloc(1, sizeof(*page));
    struct provisioned item;
    struct error err = {0};
    uint32_t sum = 0;

    assert_non_null(page);
    put_alias(f, "live", "2");
    fixture_expect(registry_put_provisioned(f->registry, &latest, 1, NULL, &err), EINVAL, &err,
                   "unpublished");
    fixture_expect(registry_put_provisioned(f->registry, &none, 1, NULL, &err), ENOENT, &err, "");
    fixture_expect(registry_put_provisioned(f->registry, &first, 0, NULL, &err), EINVAL, &err, "");
    fixture_expect(registry_put_provisioned(f->registry, &first, 901, NULL, &err), EINVAL, &err,
                   "900");
    fixture_expect(registry_put_provisioned(f->registry, &first, 5, &item, &err), 0, &err, "");
    assert_int_equal(item.requested, 5);
    assert_string_equal(item.qualifier, "1");
    assert_int_equal(item.modified_ms, fixture_now_ms);
    fixture_expect(registry_put_provisioned(f->registry, &live, 7, NULL, &err), 0, &err, "");
    /* Bounds between it and the reservation, both ways. */
    fixture_expect(registry_set_reserved(f->registry, &latest, 11, &err), EINVAL, &err, "of 12");
    fixture_expect(registry_set_reserved(f->registry, &latest, 12, &err), 0, &err, "");
    fixture_expect(registry_put_provisioned(f->registry, &live, 8, NULL, &err), EINVAL, &err, "12");
    fixture_expect(registry_put_provisioned(f->registry, &live, 3, NULL, &err), 0, &err, "");
    fixture_expect(registry_each_provisioned(f->registry, count_provisioned, &sum, &err), 0, &err,
                   "");
    assert_int_equal(sum, 8);
    fixture_expect(registry_list_provisioned(f->registry, &latest, NULL, 1, page, &err), 0, &err,
                   "");
    assert_string_equal(page->next_marker, "1");
    fixture_expect(registry_list_provisioned(f->registry, &latest, "1", 1, page, &err), 0, &err,
                   "");
    assert_string_equal(page->items[0].qualifier, "live");
    assert_string_equal(page->next_marker, "");
    /* It goes with its alias. */
    fixture_expect(registry_delete_alias(f->registry, &live, &err), 0, &err, "");
    fixture_expect(registry_get_provisioned(f->registry, &live, &item, &err), ENOENT, &err, "");
    fixture_expect(registry_delete_provisioned(f->registry, &first, &err), 0, &err, "");
    fixture_expect(registry_delete_provisioned(f->registry, &first, &err), ENOENT, &err, "No Prov");
    fixture_expect(registry_get_provisioned(f->registry, &first, &item, &err), ENOENT, &err,
                   "No Prov");
    free(page);
}

/* --- URLs ----------------------------------------------------------------------------------------
 */

static void test_urls(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key latest = fixture_key("f", NULL), live = fixture_key("f", "live");
    struct function_key first = fixture_key("f", "1");
    struct url_change change = {.auth = -1, .mode = -1};
    struct url_page *page = calloc(1, sizeof(*page));
    struct function_url *url = calloc(1, sizeof(*url)), *found = calloc(1, sizeof(*found));
    char *large = malloc(CORS_BYTES + 1);
    struct error err = {0};

    assert_true(page && url && found && large);
    put_alias(f, "live", "1");
    fixture_expect(registry_create_url(f->registry, &latest, &change, NULL, &err), EINVAL, &err,
                   "AuthType");
    change.auth = 2;
    fixture_expect(registry_create_url(f->registry, &latest, &change, NULL, &err), EINVAL, &err,
                   "AuthType");
    change.auth = URL_AUTH_AWS_IAM;
    fixture_expect(registry_create_url(f->registry, &first, &change, NULL, &err), EINVAL, &err,
                   "alias");
    fixture_expect(registry_create_url(f->registry, &latest, &change, url, &err), 0, &err, "");
    fixture_expect(registry_create_url(f->registry, &latest, &change, NULL, &err), EEXIST, &err,
                   "already");
    assert_int_equal(strlen(url->id), URL_ID_BYTES - 1);
    assert_int_equal(url->auth, URL_AUTH_AWS_IAM);
    assert_int_equal(url->mode, URL_BUFFERED);
    fixture_expect(registry_find_url(f->registry, url->id, found, &err), 0, &err, "");
    assert_string_equal(found->tenant, "alice");
    assert_string_equal(found->function, "f");
    assert_string_equal(found->qualifier, "");
    url->id[0] = url->id[0] == 'a' ? 'b' : 'a';
    fixture_expect(registry_find_url(f->registry, url->id, found, &err), ENOENT, &err, "");
    fixture_expect(registry_find_url(f->registry, "", found, &err), ENOENT, &err, "");
    fixture_now_ms += 10;
    change = (struct url_change){-1, URL_RESPONSE_STREAM, "{\"AllowOrigins\":[\"*\"]}"};
    fixture_expect(registry_update_url(f->registry, &latest, &change, url, &err), 0, &err, "");
    assert_int_equal(url->auth, URL_AUTH_AWS_IAM);
    assert_int_equal(url->mode, URL_RESPONSE_STREAM);
    assert_string_equal(url->cors, "{\"AllowOrigins\":[\"*\"]}");
    assert_int_equal(url->modified_ms, url->created_ms + 10);
    assert_string_equal(url->id, found->id);
    memset(large, 'x', CORS_BYTES);
    large[CORS_BYTES] = '\0';
    change.cors = large;
    fixture_expect(registry_update_url(f->registry, &latest, &change, NULL, &err), EINVAL, &err,
                   "Cors");
    fixture_expect(registry_update_url(f->registry, &live, &change, NULL, &err), ENOENT, &err,
                   "no URL");
    change = (struct url_change){URL_AUTH_NONE, -1, NULL};
    fixture_expect(registry_create_url(f->registry, &live, &change, NULL, &err), 0, &err, "");
    fixture_expect(registry_list_urls(f->registry, &latest, NULL, 1, page, &err), 0, &err, "");
    assert_string_equal(page->urls[0].qualifier, "");
    fixture_expect(registry_list_urls(f->registry, &latest, page->next_marker, 1, page, &err), 0,
                   &err, "");
    assert_int_equal(page->n, 1);
    assert_string_equal(page->urls[0].qualifier, "live");
    assert_string_equal(page->next_marker, "");
    fixture_expect(registry_delete_url(f->registry, &latest, &err), 0, &err, "");
    fixture_expect(registry_delete_url(f->registry, &latest, &err), ENOENT, &err, "no URL");
    fixture_expect(registry_get_url(f->registry, &latest, url, &err), ENOENT, &err, "no URL");
    fixture_expect(registry_get_url(f->registry, &live, url, &err), 0, &err, "");
    assert_int_equal(url->auth, URL_AUTH_NONE);
    free(page);
    free(url);
    free(found);
    free(large);
}

/* --- asynchronous events -------------------------------------------------------------------------
 */

static void test_event_configs(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key latest = fixture_key("f", NULL), first = fixture_key("f", "1");
    struct event_config_change change = {-1, -1, "file:good", NULL};
    struct event_config_page *page = calloc(1, sizeof(*page));
    struct event_config config;
    struct error err = {0};

    assert_non_null(page);
    fixture_expect(registry_update_event_config(f->registry, &latest, &change, &config, &err),
                   ENOENT, &err, "EventInvokeConfig");
    fixture_expect(registry_put_event_config(f->registry, &latest, &change, &config, &err), 0, &err,
                   "");
    assert_string_equal(config.qualifier, "$LATEST");
    assert_int_equal(config.retries, 2);
    assert_int_equal(config.max_age_s, 21600);
    assert_string_equal(config.on_success, "file:good");
    change = (struct event_config_change){0, 60, NULL, "file:bad"};
    fixture_expect(registry_update_event_config(f->registry, &latest, &change, &config, &err), 0,
                   &err, "");
    assert_string_equal(config.on_success, "file:good");
    assert_int_equal(config.retries, 0);
    change = (struct event_config_change){-1, -1, "", NULL};
    fixture_expect(registry_update_event_config(f->registry, &latest, &change, &config, &err), 0,
                   &err, "");
    assert_string_equal(config.on_success, "");
    assert_string_equal(config.on_failure, "file:bad");
    assert_int_equal(config.max_age_s, 60);
    fixture_expect(registry_put_event_config(f->registry, &first, &change, NULL, &err), 0, &err,
                   "");
    fixture_expect(registry_list_event_configs(f->registry, &latest, NULL, 1, page, &err), 0, &err,
                   "");
    assert_string_equal(page->items[0].qualifier, "$LATEST");
    fixture_expect(
        registry_list_event_configs(f->registry, &latest, page->next_marker, 1, page, &err), 0,
        &err, "");
    assert_string_equal(page->items[0].qualifier, "1");
    assert_string_equal(page->next_marker, "");
    const struct event_config_change bad[] = {{3, -1, NULL, NULL},
                                              {-1, 59, NULL, NULL},
                                              {-1, 21601, NULL, NULL},
                                              {-1, -1, "file:", NULL},
                                              {-1, -1, NULL, "file:../x"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        fixture_expect(registry_put_event_config(f->registry, &latest, &bad[i], NULL, &err), EINVAL,
                       &err, "");
    fixture_expect(registry_delete_event_config(f->registry, &latest, &err), 0, &err, "");
    fixture_expect(registry_delete_event_config(f->registry, &latest, &err), ENOENT, &err, "");
    fixture_expect(registry_get_event_config(f->registry, &first, &config, &err), 0, &err, "");
    free(page);
}

static void test_targets(void **state)
{
    const char *const good[] = {
        "arn:aws:lambda:us-east-1:000000000001:function:g",
        "arn:aws:lambda:eu-central-1:000000000001:function:g-h_1:live",
        "arn:aws:lambda:us-east-1:000000000001:function:g:$LATEST",
        "file:spool",
        "file:a.b-c_d",
        "http://example.org",
        "https://[::1]:8080/a?b=%20",
    };
    const char *const bad[] = {
        "",
        "x",
        "arn:aws:sqs:us-east-1:000000000001:queue",
        "arn:aws:lambda:us-east-1:1:function:g",
        "arn:aws:lambda:us-east-1:000000000001:function:",
        "arn:aws:lambda:us-east-1:000000000001:function:g:",
        "arn:aws:lambda:us-east-1:000000000001:function:g:a:b",
        "arn:aws:lambda:us-east-1:000000000001:function:a b",
        "arn:aws:lambda::000000000001:function:g",
        "file:",
        "file:.hidden",
        "file:..",
        "file:a/b",
        "http://",
        "http:///x",
        "https://a b",
        "https://a\r\nHost: b",
        "https://\xff",
        "ftp://x",
    };
    char large[TARGET_BYTES + 1];
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        fixture_expect(target_check(good[i], &err), 0, &err, "");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        fixture_expect(target_check(bad[i], &err), EINVAL, &err, "destination");
    memset(large, 'a', sizeof(large));
    memcpy(large, "http://", 7);
    large[TARGET_BYTES] = '\0';
    fixture_expect(target_check(large, &err), EINVAL, &err, "512 bytes");
    large[TARGET_BYTES - 1] = '\0';
    fixture_expect(target_check(large, &err), 0, &err, "");
}

/* --- tags ----------------------------------------------------------------------------------------
 */

static void test_tags(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), first = fixture_key("f", "1");
    const struct text_pair tags[] = {{"zone", "b"}, {"\xc3\xa4", ""}, {"zone", "c"}};
    const char *const gone[] = {"zone", "never"};
    struct text_pair many[TAGS_MAX + 1];
    char names[TAGS_MAX + 1][16], large[600];
    struct tag_list list;
    struct error err = {0};

    fixture_expect(registry_tag(f->registry, &key, tags, 3, &err), 0, &err, "");
    fixture_expect(registry_get_tags(f->registry, &key, &list, &err), 0, &err, "");
    assert_int_equal(list.n, 2);
    assert_string_equal(list.tags[0].name, "zone");
    assert_string_equal(list.tags[0].value, "c");
    assert_string_equal(list.tags[1].name, "\xc3\xa4");
    tag_list_done(&list);
    fixture_expect(registry_untag(f->registry, &key, gone, 2, &err), 0, &err, "");
    for (size_t i = 0; i <= TAGS_MAX; i++) {
        snprintf(names[i], sizeof(names[i]), "%02zu", i);
        many[i] = (struct text_pair){names[i], "v"};
    }
    fixture_expect(registry_tag(f->registry, &key, many, TAGS_MAX + 1, &err), EINVAL, &err, "50");
    fixture_expect(registry_tag(f->registry, &key, many, TAGS_MAX, &err), EINVAL, &err, "50");
    fixture_expect(registry_get_tags(f->registry, &key, &list, &err), 0, &err, "");
    assert_int_equal(list.n, 1); /* all or nothing */
    tag_list_done(&list);
    fixture_expect(registry_tag(f->registry, &key, many, TAGS_MAX - 1, &err), 0, &err, "");
    fixture_expect(registry_tag(f->registry, &first, many, 1, &err), EINVAL, &err, "function's");
    memset(large, 'x', sizeof(large));
    large[129] = '\0';
    many[0].name = large;
    fixture_expect(registry_tag(f->registry, &key, many, 1, &err), EINVAL, &err, "key");
    many[0].name = "";
    fixture_expect(registry_tag(f->registry, &key, many, 1, &err), EINVAL, &err, "key");
    many[0].name = "\xff";
    fixture_expect(registry_tag(f->registry, &key, many, 1, &err), EINVAL, &err, "UTF-8");
    large[129] = 'x';
    large[257] = '\0';
    many[0] = (struct text_pair){"00", large};
    fixture_expect(registry_tag(f->registry, &key, many, 1, &err), EINVAL, &err, "value");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, fixture_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_aliases),       TEST(test_bad_aliases),   TEST(test_weighted_routing),
        TEST(test_alias_listing), TEST(test_reserved),      TEST(test_provisioned),
        TEST(test_urls),          TEST(test_event_configs), cmocka_unit_test(test_targets),
        TEST(test_tags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
