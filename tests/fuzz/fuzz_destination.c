/*
 * What tenants and administrators write about destinations: targets, networks, addresses. The first
 * byte says which; the rest is the text, or the address as bytes.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/events/address_policy.h"
#include "host/events/delivery_target.h"
#include "host/store/registry_attached.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What passed is one host and one port, whoever takes it apart again. */
static void check_url(const char *target)
{
    CURLU *url = curl_url();
    char *part = NULL;

    assert(url && curl_url_set(url, CURLUPART_URL, target, 0) == CURLUE_OK);
    assert(curl_url_get(url, CURLUPART_USER, &part, 0) != CURLUE_OK);
    assert(curl_url_get(url, CURLUPART_HOST, &part, 0) == CURLUE_OK && part[0]);
    curl_free(part);
    assert(curl_url_get(url, CURLUPART_PORT, &part, CURLU_DEFAULT_PORT) == CURLUE_OK);
    unsigned long port = strtoul(part, NULL, 10);
    assert(port == 80 || port == 443 || (port >= 1024 && port <= 65535));
    curl_free(part);
    assert(curl_url_get(url, CURLUPART_SCHEME, &part, 0) == CURLUE_OK);
    assert(strcmp(part, "http") == 0 || strcmp(part, "https") == 0);
    curl_free(part);
    curl_url_cleanup(url);
}

static void try_target(const char *text)
{
    enum delivery_target_kind kind;
    struct error err = {0};

    int r = target_check(text, &err);
    assert(r == 0 || (r == -err.code && err.text[0]));
    if (delivery_target_check(text, &kind, &err) != 0)
        return;
    for (const char *at = text; *at; at++)
        assert(*at > ' ' && *at < 0x7f);
    if (kind == TARGET_HTTP) {
        check_url(text);
        return;
    }
    const char *name = delivery_target_spool(text);
    assert(spool_name_is_valid(name) && name[0] != '.' && !strchr(name, '/') && strlen(name) <= 64);
}

static void try_network(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct network network;
    struct error err = {0};

    if (network_parse(text, &network, &err) != 0)
        return;
    assert(network.prefix_bits <= network.address_bytes * 8);
    if (network.address_bytes == 4) {
        memcpy(&v4.sin_addr, network.address, 4);
        assert(address_is_allowed((struct sockaddr *)&v4, sizeof(v4), &network, 1));
        assert(!address_refusal((struct sockaddr *)&v4, sizeof(v4), &network, 1));
        return;
    }
    memcpy(&v6.sin6_addr, network.address, 16);
    assert(!IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr));
    assert(address_is_allowed((struct sockaddr *)&v6, sizeof(v6), &network, 1));
}

static void try_address(const uint8_t *data, size_t size)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct in6_addr mapped = IN6ADDR_ANY_INIT;

    if (size < 16)
        return;
    memcpy(&v6.sin6_addr, data, 16);
    const char *why = address_refusal((struct sockaddr *)&v6, sizeof(v6), NULL, 0);
    assert(why || (data[0] & 0xe0) == 0x20 || IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) ||
           memcmp(data, "\x00\x64\xff\x9b\0\0\0\0\0\0\0\0", 12) == 0);
    /* IPv4 is judged alike by itself and mapped. */
    memcpy(&v4.sin_addr, data, 4);
    why = address_refusal((struct sockaddr *)&v4, sizeof(v4), NULL, 0);
    mapped.s6_addr[10] = mapped.s6_addr[11] = 0xff;
    memcpy(&mapped.s6_addr[12], data, 4);
    v6.sin6_addr = mapped;
    assert(why == address_refusal((struct sockaddr *)&v6, sizeof(v6), NULL, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 4 == 0) {
        try_address(data + 1, size - 1);
        return 0;
    }
    char *text = malloc(size);
    assert(text);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (data[0] % 4 == 1)
        try_network(text);
    else
        try_target(text);
    free(text);
    return 0;
}
