/* HTTP to mayflyd: see api_client.h. Process: the CLI. */
#include "api_client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "common/text.h"

enum { CONNECT_TIMEOUT_MS = 10000, POLL_MS = 1000, URL_BYTES = 4096 };

struct api_client {
    CURL *easy;
    CURLM *multi;
    char *endpoint, *socket, *state, *tenant; /* owned; NULL as in the options */
    char *sigv4, *user;                       /* what curl signs by; NULL: unsigned */
    int interrupt_fd;
};

/* One call under way. */
struct call {
    struct api_client *client;
    const struct api_request *request;
    struct api_reply reply;
    size_t size; /* of reply.body */
    int failure; /* -errno of what ended the transfer from our side */
};

/* --- making one ------------------------------------------------------------------------------- */

static char *copy(const char *text, bool *failed)
{
    char *own = text ? strdup(text) : NULL;

    *failed = *failed || (text && !own);
    return own;
}

static char *join(const char *a, const char *b, const char *c, bool *failed)
{
    char *text = NULL;

    if (asprintf(&text, "%s%s%s", a, b, c) < 0) {
        *failed = true;
        return NULL;
    }
    return text;
}

int api_client_new(const struct api_client_options *options, struct api_client **ret_client,
                   struct error *err)
{
    struct api_client *client = calloc(1, sizeof(*client));
    bool failed = !client;

    if (client) {
        curl_global_init(CURL_GLOBAL_DEFAULT);
        client->interrupt_fd = options->interrupt_fd;
        client->endpoint = copy(options->endpoint, &failed);
        client->socket = copy(options->socket, &failed);
        client->state = copy(options->state, &failed);
        client->tenant = copy(options->tenant, &failed);
        client->easy = curl_easy_init();
        client->multi = curl_multi_init();
        failed = failed || !client->easy || !client->multi;
    }
    if (!failed && options->endpoint && options->key_id) {
        client->sigv4 = join("aws:amz:", options->region, ":lambda", &failed);
        client->user = join(options->key_id, ":", options->secret, &failed);
    }
    for (char *end = client && client->endpoint ? strchr(client->endpoint, 0) : NULL;
         end && end > client->endpoint && end[-1] == '/';)
        *--end = '\0';
    if (failed) {
        api_client_free(client);
        return error_set(err, ENOMEM, "make an HTTP client");
    }
    *ret_client = client;
    return 0;
}

void api_client_free(struct api_client *client)
{
    if (!client)
        return;
    if (client->easy)
        curl_easy_cleanup(client->easy);
    if (client->multi)
        curl_multi_cleanup(client->multi);
    free(client->endpoint);
    free(client->socket);
    free(client->state);
    free(client->tenant);
    free(client->sigv4);
    if (client->user)
        explicit_bzero(client->user, strlen(client->user));
    free(client->user);
    free(client);
}

/* --- what comes back -------------------------------------------------------------------------- */

static int keep(struct call *call, const void *data, size_t len)
{
    struct api_reply *reply = &call->reply;

    if (len > API_REPLY_MAX_BYTES - reply->body_bytes)
        return -EFBIG;
    if (call->size - reply->body_bytes < len + 1) {
        size_t size = 2 * (reply->body_bytes + len + 1);
        uint8_t *larger = realloc(reply->body, size);

        if (!larger)
            return -ENOMEM;
        reply->body = larger;
        call->size = size;
    }
    memcpy(reply->body + reply->body_bytes, data, len);
    reply->body_bytes += len;
    reply->body[reply->body_bytes] = 0;
    return 0;
}

static size_t on_body(char *data, size_t unit, size_t n, void *opaque)
{
    struct call *call = opaque;
    long status = 0;

    curl_easy_getinfo(call->client->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->request->on_data && status >= 200 && status < 300)
        call->failure = call->request->on_data(call->request->opaque, data, unit * n);
    else
        call->failure = keep(call, data, unit * n);
    return call->failure == 0 ? unit * n : 0;
}

const char *api_client_header(struct api_client *client, const char *name)
{
    struct curl_header *header = NULL;

    if (curl_easy_header(client->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
}

/* --- what went wrong -------------------------------------------------------------------------- */

static int no_answer(const struct api_client *client, CURLcode code, struct error *err)
{
    long os_error = 0;

    curl_easy_getinfo(client->easy, CURLINFO_OS_ERRNO, &os_error);
    if (code == CURLE_OUT_OF_MEMORY)
        return error_set(err, ENOMEM, "talk to mayflyd");
    if (client->endpoint && (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL))
        return error_say(err, EINVAL, "'%s' is no URL such as http://127.0.0.1:9555",
                         client->endpoint);
    if (client->endpoint)
        return error_say(err, EHOSTDOWN, "mayflyd does not answer at %s: %s. Is it running there?",
                         client->endpoint, curl_easy_strerror(code));
    if (code == CURLE_COULDNT_CONNECT && (os_error == EACCES || os_error == EPERM))
        return error_say(err, EACCES,
                         "you may not open '%s': run this as root, or use --endpoint URL with an "
                         "access key",
                         client->socket);
    if (code == CURLE_COULDNT_CONNECT)
        return error_say(err, EHOSTDOWN,
                         "mayflyd is not running: nobody answers on '%s'. Start it with: mayflyd "
                         "--state %s (or, installed: systemctl start mayflyd); another one: "
                         "--state DIR",
                         client->socket, client->state);
    return error_say(err, EIO, "mayflyd on '%s' broke off its answer: %s", client->socket,
                     curl_easy_strerror(code));
}

static int errno_of(long status)
{
    switch (status) {
    case 400:
        return EINVAL;
    case 401:
    case 403:
        return EACCES;
    case 404:
        return ENOENT;
    case 409:
        return EBUSY;
    case 413:
        return E2BIG;
    case 429:
        return EAGAIN;
    default:
        return EIO;
    }
}

/* Lambda's error: the exception is in a header, its text in "message" or "Message". */
static int refused(struct call *call, struct error *err)
{
    json_t *object = call->reply.body
                         ? json_loadb((char *)call->reply.body, call->reply.body_bytes, 0, NULL)
                         : NULL;
    const char *type = api_client_header(call->client, "x-amzn-ErrorType");
    const json_t *message = json_object_get(object, "message");
    char text[400], name[80];
    int code = errno_of(call->reply.status);

    if (!message)
        message = json_object_get(object, "Message");
    const char *said = json_string_value(message);
    text_clean(text, sizeof(text), said ? said : "", said ? strlen(said) : 0);
    text_clean(name, sizeof(name), type ? type : "", type ? strlen(type) : 0);
    json_decref(object);
    const char *advice = "";
    if (code == EACCES && call->client->endpoint && !call->client->user)
        advice = " (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; mayflyd keeps its own key in "
                 "STATE/credentials)";
    return error_say(err, code, "%s%s%s (HTTP status %ld)%s", name, name[0] && text[0] ? ": " : "",
                     text[0] || name[0] ? text : "mayflyd refused", call->reply.status, advice);
}

/* --- a call ----------------------------------------------------------------------------------- */

/* No header is struck out ("Expect:"): curl 7.88 signs those, too, and does not send them. */
static int set_headers(struct call *call, struct curl_slist **ret_list)
{
    const struct api_client *client = call->client;
    const char *const *headers = call->request->headers;
    struct curl_slist *list = NULL, *longer = NULL;
    char tenant[300];
    bool failed = false;

    for (size_t i = 0; !failed && headers && headers[i]; i++) {
        longer = curl_slist_append(list, headers[i]);
        failed = !longer;
        list = longer ? longer : list;
    }
    if (!failed && client->tenant && !client->endpoint) {
        snprintf(tenant, sizeof(tenant), "X-Mayfly-Tenant: %.255s", client->tenant);
        longer = curl_slist_append(list, tenant);
        failed = !longer;
        list = longer ? longer : list;
    }
    *ret_list = list;
    return failed ? -ENOMEM : 0;
}

static void set_request(struct call *call, const char *url, struct curl_slist *headers)
{
    const struct api_request *request = call->request;
    CURL *easy = call->client->easy;

    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "mayfly/" MAYFLY_VERSION);
    if (getenv("AWS_CA_BUNDLE")) /* as the AWS tools have it */
        curl_easy_setopt(easy, CURLOPT_CAINFO, getenv("AWS_CA_BUNDLE"));
    if (!call->client->endpoint)
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, call->client->socket);
    if (call->client->user) {
        curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, call->client->sigv4);
        curl_easy_setopt(easy, CURLOPT_USERPWD, call->client->user);
    }
    if (request->body || strcmp(request->method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_bytes);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body ? request->body : "");
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
}

/* Returns -EINTR, or 0 with what became of the transfer. */
static int transfer(struct call *call, CURLcode *ret_code)
{
    struct api_client *client = call->client;
    struct curl_waitfd interrupt = {.fd = client->interrupt_fd, .events = CURL_WAIT_POLLIN};
    unsigned n_fds = client->interrupt_fd >= 0 ? 1 : 0;
    CURLMcode code;
    int running = 1, left, r = 0;

    *ret_code = CURLE_FAILED_INIT;
    code = curl_multi_add_handle(client->multi, client->easy);
    while (code == CURLM_OK && running && r == 0) {
        code = curl_multi_perform(client->multi, &running);
        if (code == CURLM_OK && running)
            code = curl_multi_poll(client->multi, &interrupt, n_fds, POLL_MS, NULL);
        if (interrupt.revents)
            r = -EINTR;
    }
    for (const CURLMsg *message; (message = curl_multi_info_read(client->multi, &left));)
        if (message->msg == CURLMSG_DONE)
            *ret_code = message->data.result;
    curl_multi_remove_handle(client->multi, client->easy);
    return r;
}

static int finish(struct call *call, CURLcode code, struct error *err)
{
    curl_easy_getinfo(call->client->easy, CURLINFO_RESPONSE_CODE, &call->reply.status);
    if (call->failure == -EFBIG)
        return error_say(err, EFBIG, "mayflyd's answer has more than %d MB",
                         API_REPLY_MAX_BYTES >> 20);
    if (call->failure < 0)
        return error_set(err, -call->failure, "take mayflyd's answer");
    if (code != CURLE_OK)
        return no_answer(call->client, code, err);
    if (call->reply.status < 200 || call->reply.status > 299)
        return refused(call, err);
    return 0;
}

int api_client_call(struct api_client *client, const struct api_request *request,
                    struct api_reply *ret_reply, struct error *err)
{
    struct call call = {.client = client, .request = request};
    struct curl_slist *headers = NULL;
    char url[URL_BYTES];
    CURLcode code;
    const char *query = strchr(request->path, '?');
    size_t path_len = query ? (size_t)(query - request->path) : strlen(request->path);
    int r = keep(&call, "", 0);

    /* curl 7.88 does not encode a path again to sign it, as all but S3 want it. */
    if (r == 0 && client->user && memchr(request->path, '%', path_len)) {
        free(call.reply.body);
        return error_say(err, EINVAL,
                         "'%.*s' cannot be signed: give a function's name, not its ARN",
                         (int)path_len, request->path);
    }
    if (r < 0 || set_headers(&call, &headers) < 0) {
        curl_slist_free_all(headers);
        free(call.reply.body);
        return error_set(err, ENOMEM, "talk to mayflyd");
    }
    snprintf(url, sizeof(url), "%s%s", client->endpoint ? client->endpoint : "http://localhost",
             request->path);
    set_request(&call, url, headers);
    r = transfer(&call, &code);
    r = r < 0 ? error_say(err, EINTR, "interrupted") : finish(&call, code, err);
    curl_easy_setopt(client->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    if (r < 0) {
        free(call.reply.body);
        return r;
    }
    *ret_reply = call.reply;
    return 0;
}

void api_reply_done(struct api_reply *reply)
{
    free(reply->body);
    *reply = (struct api_reply){0};
}

int api_client_json(struct api_client *client, const char *method, const char *path, json_t *body,
                    json_t **ret_object, struct error *err)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    AUTO_FREE char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct api_request request = {.method = method, .path = path};
    struct api_reply reply;
    json_t *object = NULL;

    if (body && !text) {
        json_decref(body);
        return error_set(err, ENOMEM, "write a request");
    }
    json_decref(body);
    if (text) {
        request.body = text;
        request.body_bytes = strlen(text);
        request.headers = headers;
    }
    int r = api_client_call(client, &request, &reply, err);
    if (r < 0)
        return r;
    if (reply.body_bytes > 0 && ret_object) {
        object = json_loadb((char *)reply.body, reply.body_bytes, 0, NULL);
        if (!object)
            r = error_say(err, EIO, "mayflyd's answer to %s %s is not JSON", method, path);
    }
    api_reply_done(&reply);
    if (r == 0 && ret_object)
        *ret_object = object;
    return r;
}

/* --- paths ------------------------------------------------------------------------------------ */

int api_path(char *to, size_t size, struct error *err, const char *format, ...)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = 0;
    va_list args;

    va_start(args, format);
    for (const char *f = format; *f && n + 4 < size; f++) {
        if (f[0] != '%' || f[1] != 's') {
            to[n++] = *f;
            continue;
        }
        f++;
        for (const char *c = va_arg(args, const char *); *c && n + 4 < size; c++) {
            unsigned char byte = (unsigned char)*c;

            if ((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                (byte >= 'a' && byte <= 'z') || strchr("-._~", byte)) {
                to[n++] = *c;
            } else {
                to[n++] = '%';
                to[n++] = digits[byte >> 4];
                to[n++] = digits[byte & 15];
            }
        }
    }
    va_end(args);
    to[n] = '\0';
    return n + 4 < size ? 0 : error_say(err, ENAMETOOLONG, "the name is too long for a URL");
}
