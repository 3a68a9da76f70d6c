/* Recipes: what they may say, and that mistakes are named with file, line and field. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "images/image_recipe.h"
#include "tests/unit/image_fixture.h"

#define START "name: x\nsuite: bookworm\npackages: [libc6]\n"

static int load(const char *text, struct recipe **ret_recipe, struct error *err)
{
    char directory[64], path[96];

    fixture_directory(directory);
    snprintf(path, sizeof(path), "%s/r.yaml", directory);
    fixture_write(path, text, strlen(text));
    int r = recipe_load(path, ret_recipe, err);
    fixture_remove(directory);
    return r;
}

static void test_all_fields(void **state)
{
    struct recipe *recipe = NULL;
    struct error err = {0};

    (void)state;
    if (load("name: py\nruntime: python3.11\nsuite: bookworm\npackages: [a, b+c, d.e-f]\n"
             "delete: [/usr/share/*]\nkeep: [/usr/share/x]\n"
             "links:\n  - {path: /bin/a, target: ../b}\n"
             "files:\n  - {source: a/b, path: /c}\n"
             "compile_python:\n  interpreter: /usr/bin/python3\n  directories: [/usr/lib]\n",
             &recipe, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(recipe->name, "py");
    assert_string_equal(recipe->runtime, "python3.11");
    assert_int_equal(recipe->n_packages, 3);
    assert_string_equal(recipe->packages[1], "b+c");
    assert_string_equal(recipe->delete[0], "/usr/share/*");
    assert_string_equal(recipe->keep[0], "/usr/share/x");
    assert_string_equal(recipe->links[0].target, "../b");
    assert_string_equal(recipe->files[0].source, "a/b");
    assert_string_equal(recipe->compile_python->directories[0], "/usr/lib");
    recipe_free(recipe);
}

static void test_least(void **state)
{
    struct recipe *recipe = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(load(START, &recipe, &err), 0);
    assert_null(recipe->runtime);
    assert_null(recipe->compile_python);
    assert_int_equal(recipe->n_delete, 0);
    recipe_free(recipe);
}

static void test_mistakes(void **state)
{
    const struct {
        const char *text, *words, *where;
    } cases[] = {
        {"", "r.yaml", ""},
        {"- a\n", "r.yaml", ""},
        {"name: x\nsuite: b\n", "packages", "line: 2"},
        /* libcyaml gives the place of the last value it took: the line before an unknown key. */
        {START "nonsense: 1\n", "nonsense", "line: 3"},
        {START "links:\n  - {path: /a}\n", "target", "line: 5"},
        {START "links: 5\n", "links", "line: 4"},
        {"name: x\nsuite: b\npackages:\n  - [a]\n", "packages", "line: 4"},
        {"name: X\nsuite: b\npackages: [a]\n", "name 'X'", ""},
        {"name: ../x\nsuite: b\npackages: [a]\n", "name '../x'", ""},
        {"name: x\nsuite: b\npackages: [--variant=x]\n", "package '--variant=x'", ""},
        {"name: x\nsuite: b\npackages: ['a,b']\n", "package 'a,b'", ""},
        {"name: x\nsuite: -o\npackages: [a]\n", "suite '-o'", ""},
        {START "links:\n  - {path: /a/../../b, target: c}\n", "'..'", ""},
        {START "files:\n  - {source: a, path: bb}\n", "absolute", ""},
        {START "delete: [usr]\n", "must start with '/'", ""},
        {START "compile_python: {interpreter: python3, directories: [/a]}\n", "interpreter", ""},
        {"name: [x\n", "r.yaml", ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct recipe *recipe = NULL;
        struct error err = {0};

        assert_int_equal(load(cases[i].text, &recipe, &err), -EINVAL);
        if (!strstr(err.text, cases[i].words) || !strstr(err.text, cases[i].where))
            fail_msg("'%s' does not say '%s' and '%s'", err.text, cases[i].words, cases[i].where);
    }
}

/* The recipes that come with the tree; tests run from its top. */
static void test_own_recipes(void **state)
{
    static const char *const paths[] = {"images/recipes/base.yaml",
                                        "images/recipes/python3.11.yaml"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct recipe *recipe = NULL;
        struct error err = {0};

        if (recipe_load(paths[i], &recipe, &err) < 0)
            fail_msg("%s", err.text);
        recipe_free(recipe);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_least),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_own_recipes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
