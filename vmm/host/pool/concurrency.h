/*
 * How many events of each function and of each account are under way, and whether another one may
 * begin: Lambda's reserved, unreserved and account concurrency. Counting only: no threads, no time;
 * callers bring their own lock.
 */
#ifndef MAYFLY_HOST_POOL_CONCURRENCY_H
#define MAYFLY_HOST_POOL_CONCURRENCY_H

#include <stdbool.h>
#include <stdint.h>

struct concurrency;

enum { CONCURRENCY_UNRESERVED = -1 };

struct concurrency_limits {
    int32_t reserved;    /* of this function, for it alone; or CONCURRENCY_UNRESERVED */
    uint32_t unreserved; /* of its tenant: what all functions without a reservation share */
};

enum concurrency_verdict {
    CONCURRENCY_ENTERED,
    CONCURRENCY_FUNCTION_FULL, /* ReservedFunctionConcurrentInvocationLimitExceeded */
    CONCURRENCY_ACCOUNT_FULL,  /* ConcurrentInvocationLimitExceeded */
};

struct function_counters {
    uint64_t warm; /* starts: in an instance that had served before, or was held ready, … */
    uint64_t restored;
    uint64_t cold; /* its snapshot had to be made */
    uint64_t throttled;
    uint64_t failed; /* to start: the host's fault or the init phase's */
    uint32_t in_flight;
    uint32_t idle; /* instances that wait for events */
    uint32_t live; /* instances in all, those being started too */
};

/* One function. Its counters are kept until it is forgotten; the caller keeps the start counters
 * and the numbers of instances, this module the rest. */
struct counted_function {
    struct counted_function *next;
    struct counted_tenant *tenant;
    const char *name;
    struct function_counters counters;
    uint32_t users;    /* in_flight, and references of the caller's: see concurrency_unuse() */
    bool is_forgotten; /* gone with its last user */
};

struct concurrency *concurrency_new(void); /* NULL: out of memory */
void concurrency_free(struct concurrency *concurrency);

/* concurrency_find - the function, made where it is new; NULL: out of memory. Borrowed. */
struct counted_function *concurrency_find(struct concurrency *concurrency, const char *tenant,
                                          const char *name);

/* concurrency_enter - one more event, if the limits allow it. The caller leaves later with the same
 * @ret_is_reserved, whatever the limits are by then. */
enum concurrency_verdict concurrency_enter(struct counted_function *function,
                                           const struct concurrency_limits *limits,
                                           bool *ret_is_reserved);
void concurrency_leave(struct concurrency *concurrency, struct counted_function *function,
                       bool is_reserved);

/* concurrency_unuse - one user less; what was forgotten may be gone then. */
void concurrency_unuse(struct concurrency *concurrency, struct counted_function *function);

/* concurrency_forget - a function and its counters, as soon as it has no users. */
void concurrency_forget(struct concurrency *concurrency, const char *tenant, const char *name);

typedef void concurrency_visitor(void *opaque, const char *tenant, const char *name,
                                 const struct function_counters *counters);
void concurrency_each(struct concurrency *concurrency, concurrency_visitor *visit, void *opaque);

#endif
