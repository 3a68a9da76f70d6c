/*
 * Sends records of asynchronous events out of the host: to the file spool (spool.h) and to HTTP
 * endpoints (delivery_http.h); claims them from the queue, and finishes them there.
 *
 * At least once: what was sent and not yet finished when the daemon died is sent again. Tenants
 * share the threads (tenant_share.h): one whose endpoint never answers does not hold up others.
 * Process: mayflyd. Trust: targets and bodies are tenants' own.
 */
#ifndef MAYFLY_HOST_EVENTS_DELIVERY_SENDER_H
#define MAYFLY_HOST_EVENTS_DELIVERY_SENDER_H

#include "address_policy.h"
#include "event_queue.h"

struct delivery_sender;

/* All borrowed; the texts and networks are copied. */
struct delivery_sender_options {
    struct event_queue *queue;
    const char *spool;           /* directory */
    uint64_t spool_tenant_bytes; /* 0: spool_open()'s */
    const struct network *allowed;
    size_t n_allowed;
    const char *ca_file; /* NULL: the system's */
    unsigned threads;    /* 0: 16 */
    unsigned timeout_ms; /* of one post; 0: delivery_http's */
    /* failed - a record was dropped, or the queue fails: for the log. At a bounded rate. */
    void (*failed)(const char *request_id, const char *text);
};

int delivery_sender_new(const struct delivery_sender_options *options,
                        struct delivery_sender **ret_sender, struct error *err);
/* delivery_sender_wake - there may be something to send. Any thread. */
void delivery_sender_wake(struct delivery_sender *sender);
/* delivery_sender_say - into the log, at the bounded rate of what tenants cause. Any thread. */
void delivery_sender_say(struct delivery_sender *sender, const char *request_id, const char *text);
/* delivery_sender_free - breaks off what is under way (it is sent after the next start). */
void delivery_sender_free(struct delivery_sender *sender);

#endif
