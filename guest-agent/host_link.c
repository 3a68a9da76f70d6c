/*
 * Messages to and from the host. Process: mayfly-agent; the input comes from the host, which the
 * guest has to trust, but frames are bounded and parsed as if it had not.
 */
#include "guest-agent/host_link.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <x86intrin.h>

#include "guest-agent/proto/frame.h"
#include "guest-agent/reserve.h"

enum {
    INPUT_BYTES = FRAME_MAX_BYTES + RESERVE_PAGE,
    /* A message in C structures takes more room than on the wire, most of all a map. */
    PARSED_BYTES = 12 << 20,
    OUTPUT_BYTES = 160 << 10,
    /* A field of this size is not copied into the output but written from where it lies. */
    LARGE_FIELD_BYTES = 72 << 10,
    VECTORS = 8
};

RESERVE_STATIC(input, INPUT_BYTES);
RESERVE_STATIC(parsed, PARSED_BYTES);
static size_t parsed_used;
static uint8_t output[OUTPUT_BYTES];
static size_t output_used;

/* protobuf-c's allocator: a stack that host_link_recycle() empties; free does nothing. */
static void *parsed_alloc(void *opaque, size_t size)
{
    size_t rounded = (size + 15) & ~(size_t)15;
    void *block = parsed.bytes + parsed_used;

    (void)opaque;
    if (rounded < size || rounded > parsed.size_bytes - parsed_used)
        return NULL;
    parsed_used += rounded;
    reserve_ready(&parsed, parsed_used);
    return block;
}

static void parsed_free(void *opaque, void *block)
{
    (void)opaque;
    (void)block;
}

void host_link_recycle(void)
{
    parsed_used = 0;
}

void host_link_trim(const struct host_link *link)
{
    if (link->start == link->end)
        reserve_trim(&input);
    if (parsed_used <= RESERVE_KEEP_BYTES)
        reserve_trim(&parsed);
}

int host_link_receive(struct host_link *link)
{
    struct frame frame;
    ssize_t got;

    if (link->start > 0) {
        memmove(input.bytes, input.bytes + link->start, link->end - link->start);
        link->end -= link->start;
        link->start = 0;
    }
    if (frame_parse(input.bytes, link->end, &frame) == 0)
        reserve_ready(&input, frame.total_bytes);
    got = read(link->fd, input.bytes + link->end, input.size_bytes - link->end);
    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : -errno;
    if (got == 0)
        return -ECONNRESET;
    link->end += (size_t)got;
    return 0;
}

int host_link_next(struct host_link *link, Mayfly__Agent__HostMessage **ret_message)
{
    static ProtobufCAllocator allocator = {parsed_alloc, parsed_free, NULL};
    struct frame frame;
    int result = frame_parse(input.bytes + link->start, link->end - link->start, &frame);

    if (result <= 0)
        return result;
    *ret_message =
        mayfly__agent__host_message__unpack(&allocator, frame.message_bytes, frame.message);
    link->start += frame.total_bytes;
    if (link->start == link->end)
        link->start = link->end = 0;
    return *ret_message ? 1 : -EBADMSG;
}

static int write_vectors(int fd, struct iovec *vectors, int n)
{
    while (n > 0) {
        ssize_t sent = writev(fd, vectors, n);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -errno;
        while (n > 0 && (size_t)sent >= vectors->iov_len) {
            sent -= (ssize_t)vectors->iov_len;
            vectors++;
            n--;
        }
        if (n > 0) {
            vectors->iov_base = (uint8_t *)vectors->iov_base + sent;
            vectors->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

int host_link_flush(struct host_link *link)
{
    struct iovec all = {output, output_used};

    if (output_used == 0)
        return 0;
    output_used = 0;
    return write_vectors(link->fd, &all, 1);
}

/* Gathers a message with large fields: small pieces are copied to the output, large ones noted. */
struct gather {
    ProtobufCBuffer base; /* first: protobuf-c hands us a pointer to it */
    struct iovec vectors[VECTORS];
    int n;
};

static void gather_append(ProtobufCBuffer *base, size_t len, const uint8_t *data)
{
    struct gather *gather = (struct gather *)base;
    struct iovec *last = gather->n > 0 ? &gather->vectors[gather->n - 1] : NULL;

    if (len >= LARGE_FIELD_BYTES) {
        assert(gather->n < VECTORS);
        gather->vectors[gather->n].iov_base = (void *)(uintptr_t)data; /* writev only reads it */
        gather->vectors[gather->n++].iov_len = len;
        return;
    }
    assert(len <= sizeof(output) - output_used);
    if (!last || (uint8_t *)last->iov_base + last->iov_len != output + output_used) {
        assert(gather->n < VECTORS);
        last = &gather->vectors[gather->n++];
        last->iov_base = output + output_used;
        last->iov_len = 0;
    }
    memcpy(output + output_used, data, len);
    output_used += len;
    last->iov_len += len;
}

/* All fields but one or two are bounded by constants of agent.h, hence the asserts above hold. */
static int send_large(struct host_link *link, const Mayfly__Agent__AgentMessage *message,
                      size_t size)
{
    struct gather gather = {.base = {gather_append}};
    uint8_t header[FRAME_HEADER_BYTES];
    int result = host_link_flush(link);

    if (result < 0)
        return result;
    frame_put_header(header, size);
    gather_append(&gather.base, sizeof(header), header);
    mayfly__agent__agent_message__pack_to_buffer(message, &gather.base);
    result = write_vectors(link->fd, gather.vectors, gather.n);
    output_used = 0;
    return result;
}

int host_link_send(struct host_link *link, const Mayfly__Agent__AgentMessage *message)
{
    size_t size = mayfly__agent__agent_message__get_packed_size(message);

    if (size + FRAME_HEADER_BYTES > sizeof(output))
        return send_large(link, message, size);
    if (size + FRAME_HEADER_BYTES > sizeof(output) - output_used) {
        int result = host_link_flush(link);

        if (result < 0)
            return result;
    }
    frame_put_header(output + output_used, size);
    mayfly__agent__agent_message__pack(message, output + output_used + FRAME_HEADER_BYTES);
    output_used += FRAME_HEADER_BYTES + size;
    return 0;
}

int host_link_send_hello(struct host_link *link, uint64_t start_tsc, const char *runtime)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__Hello hello;
    static char version[] = MAYFLY_VERSION;
    struct utsname names;

    mayfly__agent__agent_message__init(&message);
    mayfly__agent__hello__init(&hello);
    uname(&names);
    hello.protocol_version = AGENT_PROTOCOL_VERSION;
    hello.agent_version = version;
    hello.kernel_version = names.release;
    hello.runtime = (char *)(uintptr_t)runtime; /* packing only reads it */
    hello.start_tsc = start_tsc;
    hello.hello_tsc = __rdtsc();
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    return host_link_send(link, &message);
}

int host_link_send_init_result(struct host_link *link, const Mayfly__Agent__InitResult *result)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__InitResult copy = *result;

    mayfly__agent__agent_message__init(&message);
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_INIT_RESULT;
    message.init_result = &copy;
    return host_link_send(link, &message);
}

int host_link_send_invoke_result(struct host_link *link, const Mayfly__Agent__InvokeResult *result)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__InvokeResult copy = *result;

    mayfly__agent__agent_message__init(&message);
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_INVOKE_RESULT;
    message.invoke_result = &copy;
    return host_link_send(link, &message);
}

int host_link_send_log(struct host_link *link, Mayfly__Agent__Log__Stream stream,
                       const uint8_t *data, size_t len_bytes, uint64_t dropped_bytes)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__Log log;

    mayfly__agent__agent_message__init(&message);
    mayfly__agent__log__init(&log);
    log.stream = stream;
    log.data.data = (uint8_t *)(uintptr_t)data; /* packing only reads it */
    log.data.len = len_bytes;
    log.dropped_bytes = dropped_bytes;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_LOG;
    message.log = &log;
    return host_link_send(link, &message);
}
