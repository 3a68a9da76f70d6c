/* Which addresses a tenant's destination may have: every special range, every way to write them. */
#include <errno.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/events/address_policy.h"

/* As libcurl does it: getaddrinfo() takes all that inet_aton() does, octal and hex included. */
static const char *refusal_of(const char *text, const struct network *allowed, size_t n_allowed)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const char *why;

    if (getaddrinfo(text, "80", &hints, &found) != 0)
        fail_msg("'%s' is no address", text);
    why = address_refusal(found->ai_addr, found->ai_addrlen, allowed, n_allowed);
    freeaddrinfo(found);
    return why;
}

static void test_special_addresses(void **state)
{
    /* First and last of each range. */
    static const struct {
        const char *address, *why;
    } refused[] = {
        {"0.0.0.0", "unspecified"},
        {"0.255.255.255", "unspecified"},
        {"10.0.0.0", "private"},
        {"10.255.255.255", "private"},
        {"100.64.0.0", "shared"},
        {"100.127.255.255", "shared"},
        {"127.0.0.1", "loopback"},
        {"127.255.255.255", "loopback"},
        {"169.254.0.0", "link-local"},
        {"169.254.169.254", "link-local"}, /* clouds' metadata */
        {"169.254.255.255", "link-local"},
        {"172.16.0.0", "private"},
        {"172.31.255.255", "private"},
        {"192.0.0.0", "protocols"},
        {"192.0.0.255", "protocols"},
        {"192.0.2.1", "documentation"},
        {"192.88.99.1", "6to4"},
        {"192.168.0.0", "private"},
        {"192.168.255.255", "private"},
        {"198.18.0.0", "benchmarks"},
        {"198.19.255.255", "benchmarks"},
        {"198.51.100.7", "documentation"},
        {"203.0.113.7", "documentation"},
        {"224.0.0.1", "multicast"},
        {"239.255.255.255", "multicast"},
        {"240.0.0.0", "reserved"},
        {"255.255.255.255", "broadcast"},
        /* Other ways to write IPv4. */
        {"2130706433", "loopback"},
        {"0x7f000001", "loopback"},
        {"0x7f.1", "loopback"},
        {"017700000001", "loopback"},
        {"0177.0.0.01", "loopback"},
        {"127.1", "loopback"},
        {"0", "unspecified"},
        {"0xa9fea9fe", "link-local"},
        {"2852039166", "link-local"},
        {"10.1", "private"},
        {"192.168.257", "private"},
        /* IPv6. */
        {"::", "unspecified"},
        {"::1", "loopback"},
        {"0:0:0:0:0:0:0:1", "loopback"},
        {"::2", "not a global"},
        {"::127.0.0.1", "not a global"}, /* IPv4-compatible */
        {"::8.8.8.8", "not a global"},
        {"fe80::1", "link-local"},
        {"febf:ffff::1", "link-local"},
        {"fec0::1", "site-local"},
        {"fc00::1", "unique local"},
        {"fdff:ffff::1", "unique local"},
        {"fd00:ec2::254", "unique local"}, /* clouds' metadata */
        {"ff02::1", "multicast"},
        {"ff0e::1", "multicast"},
        {"100::1", "not a global"}, /* discard */
        {"2001::1", "protocols"},   /* Teredo */
        {"2001:0:7f00:1::", "protocols"},
        {"2001:1ff:ffff::1", "protocols"},
        {"2001:db8::1", "documentation"},
        {"3fff::1", "documentation"},
        {"2002:7f00:1::1", "6to4"},
        {"2002:a00:1::1", "6to4"},
        {"2002:808:808::1", "6to4"},
        {"5f00::1", "not a global"},
        {"4000::1", "not a global"},
        /* IPv4 within IPv6. */
        {"::ffff:127.0.0.1", "loopback"},
        {"::ffff:10.0.0.1", "private"},
        {"::ffff:a9fe:a9fe", "link-local"},
        {"::ffff:0.0.0.0", "unspecified"},
        {"::ffff:0:127.0.0.1", "not a global"}, /* translated (RFC 2765) */
        {"::ffff:0:8.8.8.8", "not a global"},
        {"64:ff9b::127.0.0.1", "loopback"},
        {"64:ff9b::a00:1", "private"},
        {"64:ff9b::169.254.169.254", "link-local"},
        {"64:ff9b::100.64.0.1", "shared"},
        {"64:ff9b::224.0.0.1", "multicast"},
        {"64:ff9b:1::8.8.8.8", "not a global"}, /* a site's own NAT64 */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        const char *why = refusal_of(refused[i].address, NULL, 0);

        if (!why || !strstr(why, refused[i].why))
            fail_msg("%s is said to be %s, not %s", refused[i].address, why ? why : "global",
                     refused[i].why);
    }
}

static void test_global_addresses(void **state)
{
    /* The neighbours of each range among them. */
    static const char *const global[] = {
        "1.0.0.0",         "9.255.255.255",    "11.0.0.0",       "100.63.255.255",
        "100.128.0.0",     "126.255.255.255",  "128.0.0.0",      "169.253.255.255",
        "169.255.0.0",     "172.15.255.255",   "172.32.0.0",     "191.255.255.255",
        "192.0.1.0",       "192.0.3.0",        "192.88.98.255",  "192.88.100.0",
        "192.167.255.255", "192.169.0.0",      "198.17.255.255", "198.20.0.0",
        "198.51.99.255",   "198.51.101.0",     "203.0.112.255",  "203.0.114.0",
        "223.255.255.255", "8.8.8.8",          "0x08080808",     "::ffff:8.8.8.8",
        "2000::1",         "2001:200::1",      "2001:db7::1",    "2001:db9::1",
        "2003::1",         "2606:4700::1111",  "3ffe::1",        "3fff:1000::1",
        "3fff:ffff::1",    "64:ff9b::8.8.8.8",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(global); i++) {
        const char *why = refusal_of(global[i], NULL, 0);

        if (why)
            fail_msg("%s is said to be %s", global[i], why);
    }
}

static void test_other_families(void **state)
{
    struct sockaddr_storage address = {.ss_family = AF_UNIX};

    (void)state;
    assert_non_null(address_refusal((struct sockaddr *)&address, sizeof(address), NULL, 0));
    address.ss_family = AF_INET6; /* cut short */
    assert_non_null(address_refusal((struct sockaddr *)&address, 16, NULL, 0));
}

static struct network parse(const char *text)
{
    struct network network;
    struct error err = {0};

    if (network_parse(text, &network, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return network;
}

static void test_allowed_networks(void **state)
{
    const struct network allowed[] = {parse("10.1.0.0/16"), parse("127.0.0.1"),
                                      parse("fd00:1::/33"), parse("192.168.4.0/22"),
                                      parse("64:ff9b::a02:0/112")};
    static const char *const good[] = {
        "10.1.0.0",           "10.1.255.255",  "127.0.0.1",       "fd00:1::1",
        "fd00:1:7fff:ffff::", "192.168.7.255", "::ffff:10.1.2.3", "64:ff9b::10.2.0.1",
    };
    static const char *const bad[] = {
        "10.0.255.255", "10.2.0.0",      "127.0.0.2", "fd00:1:8000::1", "fd00:2::1",
        "192.168.8.0",  "192.168.3.255", "::1",       "::10.1.2.3",     "64:ff9b::10.1.0.1",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (refusal_of(good[i], allowed, ARRAY_LEN(allowed)))
            fail_msg("%s is refused", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (!refusal_of(bad[i], allowed, ARRAY_LEN(allowed)))
            fail_msg("%s is not refused", bad[i]);
    const struct network as_mapped = parse("::ffff:10.0.0.0/104");
    assert_null(refusal_of("10.255.0.1", &as_mapped, 1));
    assert_null(refusal_of("::ffff:10.255.0.1", &as_mapped, 1));
    assert_non_null(refusal_of("192.168.0.1", &as_mapped, 1));
    const struct network every_v6 = parse("::/0");
    assert_null(refusal_of("::1", &every_v6, 1));
    assert_non_null(refusal_of("::ffff:127.0.0.1", &every_v6, 1));
    const struct network all = parse("0.0.0.0/0");
    assert_null(refusal_of("127.0.0.1", &all, 1));
    assert_non_null(refusal_of("::1", &all, 1));
}

static void test_networks_as_text(void **state)
{
    static const char *const bad[] = {
        "",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/8x",
        "10.0.0/8",
        "10.0.0.1/8",
        "10.0.0.0/ 8",
        "fe80::/129",
        "fe80::1/10",
        "localhost",
        "10.0.0.0/0008",
        "0x7f.0.0.1",
        "1.2.3.4.5",
        "::g",
        "10.0.0.0/4294967304",
        "/",
        "0000000000000000000000000000000000000000000000000000000000000000000000000001/8",
    };
    struct network network = {.prefix_bits = 77};
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (network_parse(bad[i], &network, &err) != -EINVAL)
            fail_msg("'%s' is taken for a network", bad[i]);
    assert_int_equal(network.prefix_bits, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special_addresses), cmocka_unit_test(test_global_addresses),
        cmocka_unit_test(test_other_families),    cmocka_unit_test(test_allowed_networks),
        cmocka_unit_test(test_networks_as_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
