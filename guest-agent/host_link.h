/*
 * The link to the host: framed protobuf messages over the transport's fd.
 *
 * Sending collects small messages and writes them together (one system call for logs and result);
 * host_link_flush() must be called before waiting. Writes block: a host that does not read stops
 * the guest, and enforces deadlines itself. Every failure here means that the host is gone.
 */
#ifndef MAYFLY_AGENT_HOST_LINK_H
#define MAYFLY_AGENT_HOST_LINK_H

#include <stdbool.h>

#include "agent.pb-c.h"
#include "guest-agent/agent.h"

struct host_link {
    int fd;            /* owned */
    size_t start, end; /* received and not yet consumed bytes of the input reserve */
};

/*
 * host_link_receive - one read(2); call it when the fd is readable.
 * Returns 0, or -errno (-ECONNRESET at end of file).
 */
int host_link_receive(struct host_link *link);

/*
 * host_link_next - take the next whole message that has been received.
 * @ret_message: valid until host_link_recycle(). Returns 1 a message, 0 none, -errno if the stream
 * is broken (-EMSGSIZE, -EBADMSG).
 */
int host_link_next(struct host_link *link, Mayfly__Agent__HostMessage **ret_message);

/* host_link_recycle - no message taken so far is used any more: the next one takes their place. */
void host_link_recycle(void);

/* host_link_trim - large messages are over for now: give their memory back to the guest. */
void host_link_trim(const struct host_link *link);

/* Sending: return 0 or -errno. Byte and string arguments are only used during the call. */
int host_link_send(struct host_link *link, const Mayfly__Agent__AgentMessage *message);
int host_link_send_hello(struct host_link *link, uint64_t start_tsc, const char *runtime);
int host_link_send_init_result(struct host_link *link, const Mayfly__Agent__InitResult *result);
int host_link_send_invoke_result(struct host_link *link, const Mayfly__Agent__InvokeResult *result);
int host_link_send_log(struct host_link *link, Mayfly__Agent__Log__Stream stream,
                       const uint8_t *data, size_t len_bytes, uint64_t dropped_bytes);
int host_link_flush(struct host_link *link);

#endif
