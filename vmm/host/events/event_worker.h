/*
 * Runs asynchronous events: claims them from the queue, invokes, finishes. At most some at a time,
 * so that a backlog leaves room for those who wait for an answer; tenants share that
 * (tenant_share.h), and a function that is throttled is left alone for a while (event_throttle.h).
 * An event's lease is short and extended while it runs: after a crash it comes back soon.
 * Process: mayflyd. What goes to files and HTTP endpoints is the delivery_sender's business.
 */
#ifndef MAYFLY_HOST_EVENTS_EVENT_WORKER_H
#define MAYFLY_HOST_EVENTS_EVENT_WORKER_H

#include "host/api/api.h"

struct event_worker;

struct event_worker_options {
    struct event_queue *queue; /* all borrowed */
    struct registry *registry;
    const struct api_backend *backend;
    void *backend_opaque;
    unsigned max_running; /* 0: 64 */
    unsigned lease_ms;    /* 0: 90 s; extended at a third of it */
    void (*failed)(const char *request_id, const char *text);
};

int event_worker_new(const struct event_worker_options *options, struct event_worker **ret_worker,
                     struct error *err);
/* event_worker_wake - there may be something to claim. Any thread. */
void event_worker_wake(struct event_worker *worker);
/* event_worker_free - no new events; waits for those under way, which the caller has ended. */
void event_worker_free(struct event_worker *worker);

#endif
