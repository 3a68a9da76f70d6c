/* A registry in a directory of its own, with a tenant, a clock to set and zips to deploy. */
#ifndef MAYFLY_TESTS_REGISTRY_FIXTURE_H
#define MAYFLY_TESTS_REGISTRY_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "host/store/registry_attached.h"

struct registry_fixture {
    char state[64];
    struct registry *registry;
};

/* The registry's clock: stands still until it is changed. */
extern uint64_t fixture_now_ms;
uint64_t fixture_clock(void);

/* fixture_open, fixture_close - with tenant "alice" (account 000000000001) and "bob" (…2). */
void fixture_open(struct registry_fixture *fixture);
void fixture_close(struct registry_fixture *fixture);
void fixture_open_again(struct registry_fixture *fixture);
void fixture_close_registry(struct registry_fixture *fixture);

/* cmocka's set-up and tear-down: *state is a struct registry_fixture. */
int fixture_set_up(void **state);
int fixture_tear_down(void **state);

/* fixture_path - of @name in the state directory; a static buffer. */
const char *fixture_path(const struct registry_fixture *fixture, const char *name);

/* fixture_zip - a zip with the file @name holding @len bytes. *ret_data: free() it. */
void fixture_zip(const char *name, const void *content, size_t len, uint8_t **ret_data,
                 size_t *ret_len);

/* fixture_stage - code whose bytes depend on @content. */
struct code_staged *fixture_stage(struct registry_fixture *fixture, const char *content);

struct function_key fixture_key(const char *name, const char *qualifier); /* alice's */
extern const struct function_settings fixture_settings;

/* fixture_create - a function of alice's, Active. fixture_build - finish what is being built. */
void fixture_create(struct registry_fixture *fixture, const char *name, const char *content);
void fixture_build(struct registry_fixture *fixture, const char *name, const char *qualifier);

/* fixture_change - new code for $LATEST, Active again. fixture_publish - and its number. */
void fixture_change(struct registry_fixture *fixture, const char *name, const char *content);
uint32_t fixture_publish(struct registry_fixture *fixture, const char *name);

/* fixture_find - fails the test if it is not there; function_free() it. */
struct function *fixture_find(struct registry_fixture *fixture, const char *name,
                              const char *qualifier);

/* fixture_number - the one number that @sql selects, over a connection of its own. */
int64_t fixture_number(struct registry_fixture *fixture, const char *sql);

/* fixture_expect - fails the test unless @r is -@code (or 0) and @err says @words. */
void fixture_expect(int r, int code, const struct error *err, const char *words);

#endif
