/*
 * Logs. Process: mayfly-agent. Input: whatever the function writes, as much as it likes.
 * Invariants: the pipes are always emptied, so that a function never waits for its log; at most
 * phase_bytes are forwarded in one phase; what is dropped is counted.
 */
#include "guest-agent/log_pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

enum {
    CHUNK_BYTES = 64 << 10, /* what a pipe holds */
    ROUNDS_MAX = 16         /* what a pipe holds at most, if the function makes it larger: 1 MiB */
};

int log_pump_open(struct log_pump *pump, uint32_t phase_bytes, int null_fd,
                  int ret_write_fds[LOG_STREAMS], struct failure *failure)
{
    int fds[LOG_STREAMS][2];

    if (pipe2(fds[LOG_STDOUT], O_CLOEXEC) < 0)
        return failure_set(failure, errno, "make a pipe");
    if (pipe2(fds[LOG_STDERR], O_CLOEXEC) < 0) {
        int code = errno;

        close(fds[LOG_STDOUT][0]);
        close(fds[LOG_STDOUT][1]);
        return failure_set(failure, code, "make a pipe");
    }
    for (int i = 0; i < LOG_STREAMS; i++) {
        /* Else the function could write to it, but not open it as /dev/stdout. */
        (void)!fchown(fds[i][1], AGENT_FUNCTION_UID, AGENT_FUNCTION_UID);
        pump->read_fds[i] = fds[i][0];
        ret_write_fds[i] = fds[i][1];
        pump->dropped[i] = 0;
    }
    pump->phase_bytes = pump->budget_bytes = phase_bytes;
    pump->null_fd = null_fd;
    return 0;
}

static void close_stream(struct log_pump *pump, int stream)
{
    if (pump->read_fds[stream] >= 0)
        close(pump->read_fds[stream]);
    pump->read_fds[stream] = -1;
}

void log_pump_close(struct log_pump *pump)
{
    for (int i = 0; i < LOG_STREAMS; i++)
        close_stream(pump, i);
}

void log_pump_begin_phase(struct log_pump *pump)
{
    pump->budget_bytes = pump->phase_bytes;
}

static bool is_readable(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    return fd >= 0 && poll(&ready, 1, 0) == 1;
}

/* Beyond the budget: to /dev/null without a copy. Bytes taken, 0 at the end, or -errno. */
static ssize_t discard(struct log_pump *pump, int stream)
{
    ssize_t len = splice(pump->read_fds[stream], NULL, pump->null_fd, NULL, 1 << 20, 0);

    if (len > 0)
        pump->dropped[stream] += (uint64_t)len;
    return len < 0 ? -errno : len;
}

static ssize_t forward(struct log_pump *pump, int stream, struct host_link *link)
{
    static uint8_t chunk[CHUNK_BYTES];
    ssize_t len = read(pump->read_fds[stream], chunk, sizeof(chunk));
    size_t forwarded;
    int result;

    if (len <= 0)
        return len < 0 ? -errno : 0;
    forwarded = (size_t)len < pump->budget_bytes ? (size_t)len : pump->budget_bytes;
    pump->dropped[stream] += (size_t)len - forwarded;
    pump->budget_bytes -= (uint32_t)forwarded;
    result = host_link_send_log(link,
                                stream == LOG_STDOUT ? MAYFLY__AGENT__LOG__STREAM__STDOUT
                                                     : MAYFLY__AGENT__LOG__STREAM__STDERR,
                                chunk, forwarded, 0);
    return result < 0 ? -EPIPE : len;
}

int log_pump_read(struct log_pump *pump, int stream, struct host_link *link)
{
    ssize_t len;

    if (pump->read_fds[stream] < 0)
        return 0;
    /* The pipe is readable, so neither call waits. A full chunk may have left something behind; but
     * a function that never stops writing must not keep the agent from its deadline. */
    for (int round = 0;; round++) {
        len = pump->budget_bytes > 0 ? forward(pump, stream, link) : discard(pump, stream);
        if (len < CHUNK_BYTES || round == ROUNDS_MAX || !is_readable(pump->read_fds[stream]))
            break;
    }
    if (len == -EPIPE)
        return -EPIPE;
    if (len <= 0)
        close_stream(pump, stream);
    return 0;
}

int log_pump_drain(struct log_pump *pump, struct host_link *link)
{
    for (int i = 0; i < LOG_STREAMS; i++)
        while (is_readable(pump->read_fds[i])) {
            int result = log_pump_read(pump, i, link);

            if (result < 0)
                return result;
        }
    return 0;
}

int log_pump_end_phase(struct log_pump *pump, struct host_link *link)
{
    for (int i = 0; i < LOG_STREAMS; i++) {
        int result;

        if (pump->dropped[i] == 0)
            continue;
        result = host_link_send_log(link,
                                    i == LOG_STDOUT ? MAYFLY__AGENT__LOG__STREAM__STDOUT
                                                    : MAYFLY__AGENT__LOG__STREAM__STDERR,
                                    NULL, 0, pump->dropped[i]);
        if (result < 0)
            return result;
        pump->dropped[i] = 0;
    }
    return 0;
}
