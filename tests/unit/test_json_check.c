/* The JSON recogniser: what RFC 8259 allows and what it does not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/json_check.h"

static void test_valid(void **state)
{
    static const char *const texts[] = {"0",
                                        "-0",
                                        "10",
                                        "-1.5e+10",
                                        "1E400",
                                        "123456789012345678901234567890",
                                        "true",
                                        "false",
                                        "null",
                                        "\"\"",
                                        "\"a\\n\\u00e4\\\\\"",
                                        "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"",
                                        "[]",
                                        "{}",
                                        " [ 1 , 2 ] ",
                                        "{\"a\":{\"b\":[{}, [], null]}}",
                                        "\t\r\n1\n",
                                        "[[],[[]]]",
                                        "{\"\":0,\"\":1}",
                                        "\"\x7f\""};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (json_check(texts[i], strlen(texts[i]), NULL) != 0)
            fail_msg("refused: %s", texts[i]);
}

static void test_invalid(void **state)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "01",
                                        "-",
                                        "1.",
                                        ".5",
                                        "1e",
                                        "+1",
                                        "tru",
                                        "nul",
                                        "nulll",
                                        "True",
                                        "NaN",
                                        "Infinity",
                                        "'a'",
                                        "\"",
                                        "\"\\x\"",
                                        "\"\\u12g4\"",
                                        "\"\\u123",
                                        "\"\\",
                                        "\"\n\"",
                                        "[",
                                        "[1",
                                        "[1,",
                                        "[1,]",
                                        "[,1]",
                                        "[1 2]",
                                        "]",
                                        "{",
                                        "{\"a\"",
                                        "{\"a\":",
                                        "{\"a\":1",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "{1:1}",
                                        "{\"a\" 1}",
                                        "[}",
                                        "{]",
                                        "1 2",
                                        "[] x",
                                        "\"\x80\"",
                                        "\"\xc0\x80\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\"\xe2\x82\"",
                                        "\"\xff\"",
                                        "\xef\xbb\xbf{}",
                                        "// c\n1"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (json_check(texts[i], strlen(texts[i]), NULL) != -EBADMSG)
            fail_msg("taken: %s", texts[i]);
    assert_int_equal(json_check("1\0", 2, NULL), -EBADMSG);
}

static void test_position(void **state)
{
    static const char text[] = "{\n  \"a\": 1,\n  b\n}";
    struct error err;

    (void)state;
    assert_int_equal(json_check(text, sizeof(text) - 1, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "line 3, column 3"));
}

static void test_depth(void **state)
{
    size_t len = 2 * JSON_CHECK_MAX_DEPTH + 2;
    char *text = malloc(len);

    (void)state;
    memset(text, '[', len / 2);
    memset(text + len / 2, ']', len / 2);
    assert_int_equal(json_check(text, len, NULL), -EBADMSG);
    assert_int_equal(json_check(text + 1, len - 2, NULL), 0);
    free(text);
}

/* Every byte string of one and two bytes, and every cut and flip of a text: no crash (ASan). */
static void test_any_bytes(void **state)
{
    static const char text[] = "{\"k\":[1.5e3,\"\\u00e4\xc3\xa4\",true,null,{}]}";
    char copy[sizeof(text)];

    (void)state;
    for (unsigned int i = 0; i < 65536; i++) {
        uint8_t two[2] = {(uint8_t)i, (uint8_t)(i >> 8)};
        uint8_t *exact = malloc(2);

        memcpy(exact, two, 2);
        json_check(exact, 2, NULL);
        json_check(exact + 1, 1, NULL);
        free(exact);
    }
    for (size_t at = 0; at < sizeof(text) - 1; at++) {
        char *cut = malloc(at ? at : 1);

        memcpy(cut, text, at);
        assert_int_equal(json_check(cut, at, NULL), -EBADMSG);
        free(cut);
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, text, sizeof(text));
            copy[at] = (char)(copy[at] ^ (1 << bit));
            json_check(copy, sizeof(text) - 1, NULL);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_valid), cmocka_unit_test(test_invalid),
                                       cmocka_unit_test(test_position),
                                       cmocka_unit_test(test_depth),
                                       cmocka_unit_test(test_any_bytes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
