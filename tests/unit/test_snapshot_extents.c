/* Runs of pages, against plain arrays of bits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "snapshot/memory_pages.h"

enum { N = 1000 };

static uint32_t random_state = 1;

static uint32_t rnd(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

/* Runs of random lengths, so that words of 64 bits are full, empty and mixed. */
static void random_bits(bool bits[N])
{
    bool value = rnd() & 1;

    for (uint32_t i = 0; i < N;) {
        uint32_t run = 1 + rnd() % (rnd() & 1 ? 5 : 150);

        for (; run > 0 && i < N; run--)
            bits[i++] = value;
        value = !value;
    }
}

static struct snapshot_extents from_bits(const bool bits[N])
{
    struct snapshot_extents extents = {0};

    for (uint32_t i = 0; i < N; i++)
        if (bits[i])
            assert_int_equal(snapshot_extents_add(&extents, i, 1), 0);
    return extents;
}

static void assert_is(const struct snapshot_extents *extents, const bool bits[N])
{
    bool seen[N] = {false};

    for (size_t i = 0; i < extents->n; i++) {
        if (i > 0)
            assert_true(extents->items[i].first >
                        extents->items[i - 1].first + extents->items[i - 1].n);
        for (uint32_t page = 0; page < extents->items[i].n; page++)
            seen[extents->items[i].first + page] = true;
    }
    assert_memory_equal(seen, bits, sizeof(seen));
}

static void test_sets(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        bool a[N], b[N], c[N], overlap = false;
        struct snapshot_extents result;

        random_bits(a);
        random_bits(b);
        struct snapshot_extents x = from_bits(a), y = from_bits(b);
        assert_is(&x, a);
        for (size_t i = 0; i < N; i++) {
            c[i] = a[i] || b[i];
            overlap = overlap || (a[i] && b[i]);
        }
        assert_int_equal(snapshot_extents_union(&x, &y, &result), 0);
        assert_is(&result, c);
        snapshot_extents_done(&result);
        for (size_t i = 0; i < N; i++)
            c[i] = a[i] && !b[i];
        assert_int_equal(snapshot_extents_subtract(&x, &y, &result), 0);
        assert_is(&result, c);
        assert_int_equal(snapshot_extents_overlap(&x, &y), overlap);
        assert_false(snapshot_extents_overlap(&result, &y));
        snapshot_extents_done(&result);
        for (uint32_t page = 0; page < N; page++) {
            size_t at = snapshot_extents_find(&x, page);

            assert_int_equal(at < x.n && x.items[at].first <= page, a[page]);
        }
        snapshot_extents_done(&x);
        snapshot_extents_done(&y);
    }
}

static void test_bitmap(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        uint64_t words[(N + 63) / 64] = {0};
        struct snapshot_extents extents = {0};
        bool bits[N], shifted[N] = {false};
        uint32_t n = 1 + rnd() % (N - 100);

        random_bits(bits);
        for (uint32_t i = 0; i < N; i++)
            words[i / 64] |= (uint64_t)bits[i] << (i % 64);
        memcpy(shifted + 100, bits, n);
        assert_int_equal(snapshot_extents_add_bitmap(&extents, 100, words, n), 0);
        assert_is(&extents, shifted);
        snapshot_extents_done(&extents);
    }
}

static void test_add_refuses(void **state)
{
    struct snapshot_extents extents = {0};

    (void)state;
    assert_int_equal(snapshot_extents_add(&extents, 5, 0), -EINVAL);
    assert_int_equal(snapshot_extents_add(&extents, SNAPSHOT_PAGES_MAX, 1), -EINVAL);
    assert_int_equal(snapshot_extents_add(&extents, 1, UINT32_MAX), -EINVAL);
    assert_int_equal(snapshot_extents_add(&extents, 5, 3), 0);
    assert_int_equal(snapshot_extents_add(&extents, 7, 1), -EINVAL);
    assert_int_equal(snapshot_extents_add(&extents, 8, 1), 0);
    assert_int_equal(extents.n, 1);
    assert_int_equal(snapshot_extents_pages(&extents), 4);
    assert_int_equal(snapshot_extents_end(&extents), 9);
    snapshot_extents_done(&extents);
    assert_int_equal(snapshot_extents_end(&extents), 0);
}

static void test_of_file(void **state)
{
    AUTO_FD fd = memfd_create("x", MFD_CLOEXEC);
    struct snapshot_extents extents;
    struct error err = {0};

    (void)state;
    assert_int_equal(ftruncate(fd, 100 * SNAPSHOT_PAGE_BYTES), 0);
    assert_int_equal(snapshot_extents_of_file(fd, 100, &extents, &err), 0);
    assert_int_equal(extents.n, 0);
    assert_int_equal(pwrite(fd, "x", 1, 3 * SNAPSHOT_PAGE_BYTES + 5), 1);
    assert_int_equal(pwrite(fd, "x", 1, 4 * SNAPSHOT_PAGE_BYTES), 1);
    assert_int_equal(pwrite(fd, "x", 1, 99 * SNAPSHOT_PAGE_BYTES), 1);
    assert_int_equal(snapshot_extents_of_file(fd, 100, &extents, &err), 0);
    assert_int_equal(extents.n, 2);
    assert_int_equal(extents.items[0].first, 3);
    assert_int_equal(extents.items[0].n, 2);
    assert_int_equal(extents.items[1].first, 99);
    snapshot_extents_done(&extents);
    assert_int_equal(snapshot_extents_of_file(fd, 4, &extents, &err), 0);
    assert_int_equal(snapshot_extents_pages(&extents), 1);
    snapshot_extents_done(&extents);
    assert_int_equal(snapshot_extents_of_file(-1, 4, &extents, &err), -EBADF);
}

static void test_serialised(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct snapshot_extents back;
        AUTO_FREE uint8_t *data = NULL;
        struct error err = {0};
        bool bits[N];
        size_t len;

        random_bits(bits);
        struct snapshot_extents extents = from_bits(bits);
        assert_int_equal(snapshot_extents_serialise(&extents, &data, &len), 0);
        assert_int_equal(snapshot_extents_parse(data, len, N, "it", &back, &err), 0);
        assert_is(&back, bits);
        snapshot_extents_done(&back);
        for (size_t cut = 0; cut < len; cut++)
            assert_int_equal(snapshot_extents_parse(data, cut, N, "it", &back, &err), -EBADMSG);
        uint32_t end = snapshot_extents_end(&extents);
        if (end > 0) {
            assert_int_equal(snapshot_extents_parse(data, len, end - 1, "it", &back, &err),
                             -EBADMSG);
            assert_non_null(strstr(err.text, "it is damaged: run"));
        }
        snapshot_extents_done(&extents);
    }
}

static void test_hostile_lists(void **state)
{
    static const uint32_t lists[][4] = {
        {5, 0, 9, 1},          /* empty run */
        {5, 3, 7, 1},          /* overlap */
        {5, 3, 8, 1},          /* not merged */
        {9, 1, 5, 1},          /* out of order */
        {5, 1, 99, 2},         /* over the end */
        {5, 1, UINT32_MAX, 2}, /* wraps */
        {5, UINT32_MAX, 9, 1},
    };
    uint8_t data[32] = "MFEX";
    struct snapshot_extents extents;
    struct error err = {0};

    (void)state;
    store_le32(data + 4, 1);
    store_le32(data + 8, 2);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (size_t k = 0; k < 4; k++)
            store_le32(data + 16 + 4 * k, lists[i][k]);
        assert_int_equal(snapshot_extents_parse(data, 32, 100, "it", &extents, &err), -EBADMSG);
    }
    store_le32(data + 8, 0x20000002); /* times 8 wraps to 16 in 32 bits */
    assert_int_equal(snapshot_extents_parse(data, 32, 100, "it", &extents, &err), -EBADMSG);
    store_le32(data + 4, 2);
    assert_int_equal(snapshot_extents_parse(data, 32, 100, "it", &extents, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "version 2"));
}

/* --- the two lists of memory.pages ----------------------------------------------------------- */

struct collected {
    uint32_t pages[N];
    size_t n;
};

static int collect(void *opaque, struct snapshot_extent run, size_t at_bytes)
{
    struct collected *collected = opaque;

    assert_int_equal(at_bytes, collected->n * SNAPSHOT_PAGE_BYTES);
    for (uint32_t i = 0; i < run.n; i++)
        collected->pages[collected->n++] = run.first + i;
    return 0;
}

static void test_packed_pages(void **state)
{
    struct memory_pages pages = {0};
    struct collected all = {.n = 0};
    bool bits[N];

    (void)state;
    random_bits(bits);
    pages.data = from_bits(bits);
    assert_int_equal(memory_pages_index(&pages), 0);
    uint32_t n = snapshot_extents_pages(&pages.data);
    assert_int_equal(memory_pages_each(&pages, 0, n * (size_t)SNAPSHOT_PAGE_BYTES, collect, &all),
                     0);
    assert_int_equal(all.n, n);
    for (uint32_t first = 0; first < n; first += 7)
        for (uint32_t len = 1; first + len <= n; len += 13) {
            struct collected some = {.n = 0};

            memory_pages_each(&pages, first * (uint64_t)SNAPSHOT_PAGE_BYTES,
                              len * (size_t)SNAPSHOT_PAGE_BYTES, collect, &some);
            assert_int_equal(some.n, len);
            assert_memory_equal(some.pages, all.pages + first, len * sizeof(uint32_t));
        }
    memory_pages_done(&pages);
}

static void test_pages_file(void **state)
{
    struct memory_pages pages = {0}, back;
    AUTO_FREE uint8_t *data = NULL;
    struct error err = {0};
    size_t len;

    (void)state;
    snapshot_extents_add(&pages.data, 1, 5);
    snapshot_extents_add(&pages.data, 10, 5);
    snapshot_extents_add(&pages.zero, 6, 4);
    assert_int_equal(memory_pages_encode(&pages, &data, &len), 0);
    assert_int_equal(memory_pages_decode(data, len, 100, "it", &back, &err), 0);
    assert_int_equal(back.data.n, 2);
    assert_int_equal(back.zero.n, 1);
    memory_pages_done(&back);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(memory_pages_decode(data, cut, 100, "it", &back, &err), -EBADMSG);
    store_le32(data + len - 8, 5); /* page 5 is in both */
    assert_int_equal(memory_pages_decode(data, len, 100, "it", &back, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "both"));
    memory_pages_done(&pages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets),         cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_add_refuses),  cmocka_unit_test(test_of_file),
        cmocka_unit_test(test_serialised),   cmocka_unit_test(test_hostile_lists),
        cmocka_unit_test(test_packed_pages), cmocka_unit_test(test_pages_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
