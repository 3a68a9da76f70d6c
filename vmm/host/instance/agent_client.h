/*
 * The conversation with the agent in a guest (guest-agent/proto/agent.proto), from the host's side.
 *
 * Trust: every answer is hostile input: an unexpected message is an error that says so, texts are
 * cleaned, payloads bounded. Threads: one at a time per client.
 */
#ifndef MAYFLY_HOST_INSTANCE_AGENT_CLIENT_H
#define MAYFLY_HOST_INSTANCE_AGENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "package.h"
#include "response_part.h"

enum {
    AGENT_PROTOCOL_VERSION = 1,
    AGENT_EVENT_MAX_BYTES = 6 << 20,    /* as in Lambda */
    AGENT_RESPONSE_MAX_BYTES = 6 << 20, /* likewise */
    AGENT_LOG_MAX_BYTES = 2 << 20, /* of a phase's output: an agent is told to send half of it */
};

struct agent_client;

/* How a phase ended; the numbers are those of agent.proto's Outcome. */
enum agent_outcome {
    OUTCOME_OK = 0,
    OUTCOME_FUNCTION_ERROR,
    OUTCOME_TIMEOUT,
    OUTCOME_EXITED,
    OUTCOME_OUT_OF_MEMORY,
    OUTCOME_RESPONSE_TOO_LARGE,
    OUTCOME_AGENT_ERROR,
};

/* Output of the function: raw bytes. @dropped_bytes: lost to the limit since the last call. */
typedef void agent_log(void *opaque, bool is_stderr, const void *data, size_t len_bytes,
                       uint64_t dropped_bytes);

struct agent_hello {
    char agent_version[32]; /* all three cleaned */
    char kernel_version[64];
    char runtime[32];
    uint64_t start_tsc;
    uint64_t hello_tsc;
};

struct agent_variable {
    const char *name;
    const char *value;
};

/* What to run; all pointers borrowed for the call. */
struct agent_prepare {
    const char *runtime;
    const char *handler;
    const char *function_name;
    const char *function_version;
    const char *function_arn;
    const char *log_group;
    const char *log_stream;
    const struct agent_variable *environment;
    size_t n_environment;
    uint32_t memory_mib;
    uint32_t init_timeout_ms;
    uint64_t tmp_bytes;
    uint32_t max_log_bytes;
};

/* Who a restored guest is from now on; clock, entropy and boot id are added when it is sent. */
struct agent_rebirth {
    const char *instance_id;
    const char *hostname;
    const char *log_stream; /* NULL: unchanged */
};

struct agent_event {
    const char *request_id;
    const void *data; /* JSON */
    size_t len_bytes;
    uint64_t timeout_ms;
    const char *client_context; /* these may be NULL */
    const char *identity;
    const char *trace_id;
    const char *invoked_arn; /* NULL: the Prepare's */
    /* The guest was restored and this is the first it hears: told in one piece with the event, so
     * that no handler code runs in between. NULL otherwise. */
    const struct agent_rebirth *rebirth;
    /* Parts of a streamed response as they come; the result's payload is then empty. NULL: they are
     * collected, and are the payload if they are no more than a response may have. */
    response_part_fn *on_part;
    void *part_opaque;
};

/* What a phase came to. */
struct agent_result {
    enum agent_outcome outcome;
    uint8_t *payload; /* owned; the response or the error object, with a 0 after it; never NULL */
    size_t payload_bytes;
    uint64_t duration_us; /* by the guest's clock */
    uint64_t memory_peak_bytes;
    char message[256]; /* why, if not OK; cleaned */
};

void agent_result_done(struct agent_result *result);

/*
 * agent_client_new - takes over @fd, also on failure. @end_fd, @interrupt_fd: see agent_stream.h.
 * @log is called from within agent_client_init() and _invoke(), on their thread; may be NULL.
 */
int agent_client_new(int fd, int end_fd, int interrupt_fd, agent_log *log, void *opaque,
                     struct agent_client **ret_client, struct error *err);
void agent_client_free(struct agent_client *client);

/* agent_client_remind - call @remind once, from within a wait for the agent that lasts until @at_ns
 * (CLOCK_MONOTONIC); 0: no more. */
void agent_client_remind(struct agent_client *client, uint64_t at_ns, void (*remind)(void *opaque),
                         void *opaque);

/*
 * All of these return 0, -ETIMEDOUT, -EINTR, -ECONNRESET or -EPROTO, as agent_stream.h says; after
 * any failure the conversation is over. A function's failure is a result, not an error.
 */

/* agent_client_hello - wait for the agent's first words. */
int agent_client_hello(struct agent_client *client, uint64_t timeout_ms,
                       struct agent_hello *ret_hello, struct error *err);

/*
 * agent_client_init - send what to run, let it initialise. @send_timeout_ms for the upload,
 * @answer_timeout_ms from then on. *ret_result: agent_result_done() it.
 */
int agent_client_init(struct agent_client *client, const struct agent_prepare *prepare,
                      const struct package *package, uint64_t send_timeout_ms,
                      uint64_t answer_timeout_ms, struct agent_result *ret_result,
                      struct error *err);

/* agent_client_invoke - one event, one result; timeouts as above. */
int agent_client_invoke(struct agent_client *client, const struct agent_event *event,
                        uint64_t send_timeout_ms, uint64_t answer_timeout_ms,
                        struct agent_result *ret_result, struct error *err);

/*
 * agent_client_preload - start the runtime's process without a function: the runtime level of the
 * snapshot tree. *ret_result as above.
 */
int agent_client_preload(struct agent_client *client, const char *runtime, uint32_t memory_mib,
                         uint64_t tmp_bytes, uint32_t max_log_bytes, uint64_t answer_timeout_ms,
                         struct agent_result *ret_result, struct error *err);

/*
 * agent_client_freeze - before-snapshot hooks, by the guest's clock within @hooks_timeout_ms (0: as
 * in Lambda), then rest: nothing is under way when it returns, and
 * after @settle_ms, for the guest's kernel to tidy up, the guest goes to its freeze point.
 */
int agent_client_freeze(struct agent_client *client, uint32_t settle_ms, uint32_t hooks_timeout_ms,
                        uint64_t answer_timeout_ms, struct agent_result *ret_result,
                        struct error *err);

/* agent_client_reborn - tell a restored guest that gets no event yet: Prepare follows. */
int agent_client_reborn(struct agent_client *client, const struct agent_rebirth *rebirth,
                        uint64_t send_timeout_ms, struct error *err);

/*
 * agent_client_awaken - tell a restored guest, and let its function's after-restore hooks run now
 * rather than with the first event, which then comes without ->rebirth. *ret_result as above.
 */
int agent_client_awaken(struct agent_client *client, const struct agent_rebirth *rebirth,
                        uint64_t answer_timeout_ms, struct agent_result *ret_result,
                        struct error *err);

/* agent_client_shutdown - ask the guest to power off; does not wait for it. */
int agent_client_shutdown(struct agent_client *client, uint32_t grace_ms, struct error *err);

#endif
