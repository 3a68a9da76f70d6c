/* Where records go: see delivery_target.h. Pure. */
#include "delivery_target.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

enum { SPOOL_NAME_MAX = 64, SHOWN_BYTES = 140, PRIVILEGED_PORTS = 1024 };

static const char file_scheme[] = "file:";

static int wrong(const char *target, const char *why, struct error *err)
{
    char shown[SHOWN_BYTES];

    text_clean(shown, sizeof(shown), target, strlen(target));
    return error_say(err, EINVAL, "the destination '%s' %s", shown, why);
}

bool spool_name_is_valid(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t len = strnlen(name, SPOOL_NAME_MAX + 1);

    return len > 0 && len <= SPOOL_NAME_MAX && name[0] != '.' && strspn(name, allowed) == len;
}

const char *delivery_target_spool(const char *target)
{
    return target + strlen(file_scheme);
}

/* --- URLs ------------------------------------------------------------------------------------ */

static bool has_part(CURLU *url, CURLUPart part)
{
    char *text = NULL;
    bool has = curl_url_get(url, part, &text, 0) == CURLUE_OK;

    curl_free(text);
    return has;
}

/* What listens below 1024 and does not speak HTTP is nobody's webhook, but may be made to do
 * something by a line of one (mail, for one). */
static const char *why_bad_port(CURLU *url)
{
    char *text = NULL;
    unsigned long port;

    if (curl_url_get(url, CURLUPART_PORT, &text, CURLU_DEFAULT_PORT) != CURLUE_OK)
        return "has no port that could be used";
    port = strtoul(text, NULL, 10);
    curl_free(text);
    return port == 80 || port == 443 || (port >= PRIVILEGED_PORTS && port <= 65535)
               ? NULL
               : "has a port below 1024 that is neither 80 nor 443";
}

/* NULL: a good one. */
static const char *why_bad_url(const char *target)
{
    CURLU *url = curl_url();
    const char *why = NULL;

    if (!url)
        return "cannot be looked at: out of memory";
    if (curl_url_set(url, CURLUPART_URL, target, 0) != CURLUE_OK || !has_part(url, CURLUPART_HOST))
        why = "is not a valid URL";
    else if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD))
        why = "has a user name or password in its URL";
    else if (has_part(url, CURLUPART_ZONEID))
        why = "has an address with a zone";
    else if (strchr(target, '#'))
        why = "has a fragment in its URL";
    else
        why = why_bad_port(url);
    curl_url_cleanup(url);
    return why;
}

/* "http://x" or "https://x", x printable and not '/': what libcurl would forgive, we do not. */
static bool is_url(const char *target)
{
    size_t skip = strncmp(target, "https://", 8) == 0  ? 8
                  : strncmp(target, "http://", 7) == 0 ? 7
                                                       : 0;

    if (skip == 0 || target[skip] == '\0' || target[skip] == '/')
        return false;
    for (const char *at = target; *at; at++)
        if (*at <= ' ' || *at >= 0x7f || *at == '\\')
            return false;
    return true;
}

int delivery_target_check(const char *target, enum delivery_target_kind *ret_kind,
                          struct error *err)
{
    const char *why;

    if (strncmp(target, file_scheme, strlen(file_scheme)) == 0) {
        if (!spool_name_is_valid(delivery_target_spool(target)))
            return wrong(target,
                         "does not name a spool: after 'file:' come 1 to 64 letters, digits, '-', "
                         "'_' and '.', the first not '.'",
                         err);
        *ret_kind = TARGET_FILE;
        return 0;
    }
    if (!is_url(target))
        return wrong(target,
                     "is neither a function's ARN, file:<spool> nor an http:// or https:// URL",
                     err);
    why = why_bad_url(target);
    if (why)
        return wrong(target, why, err);
    *ret_kind = TARGET_HTTP;
    return 0;
}
