/* What the function writes to stdout and stderr, on its way to the host. */
#ifndef MAYFLY_AGENT_LOG_PUMP_H
#define MAYFLY_AGENT_LOG_PUMP_H

#include "guest-agent/host_link.h"

enum { LOG_STDOUT, LOG_STDERR, LOG_STREAMS };

struct log_pump {
    int read_fds[LOG_STREAMS];     /* owned; -1 closed */
    uint64_t dropped[LOG_STREAMS]; /* bytes, not told to the host yet */
    uint32_t budget_bytes;         /* still to be forwarded in this phase */
    uint32_t phase_bytes;          /* the budget of each phase */
    int null_fd;                   /* borrowed: where dropped bytes go without being copied */
};

/* log_pump_open - make both pipes. @ret_write_fds: owned by the caller. Returns 0 or -errno. */
int log_pump_open(struct log_pump *pump, uint32_t phase_bytes, int null_fd,
                  int ret_write_fds[LOG_STREAMS], struct failure *failure);
void log_pump_close(struct log_pump *pump);

/* log_pump_begin_phase - the init phase or an invocation starts: the budget is whole again. */
void log_pump_begin_phase(struct log_pump *pump);

/*
 * log_pump_read - call when the stream's pipe is readable: forwards, or drops, all that is in it,
 * and does not wait for more. It closes the stream at its end.
 * Returns 0 or -errno of the link to the host.
 */
int log_pump_read(struct log_pump *pump, int stream, struct host_link *link);

/* log_pump_drain - the same for both streams, readable or not. For when the function has died. */
int log_pump_drain(struct log_pump *pump, struct host_link *link);

/* log_pump_end_phase - tell the host how much was dropped, if anything. Returns as above. */
int log_pump_end_phase(struct log_pump *pump, struct host_link *link);

#endif
