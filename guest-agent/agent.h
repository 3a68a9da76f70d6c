/*
 * What the whole agent agrees on: limits, places, and how it says that something is wrong.
 *
 * Process: mayfly-agent, PID 1 of a guest, one thread. It never allocates from the heap: all its
 * memory is static, so nothing can fail for want of it and no system call is spent on it.
 */
#ifndef MAYFLY_AGENT_H
#define MAYFLY_AGENT_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef MAYFLY_VERSION
#define MAYFLY_VERSION "0.0.0"
#endif

enum {
    AGENT_PROTOCOL_VERSION = 1,
    AGENT_PORT = 1024,              /* vsock port of the host */
    AGENT_RESPONSE_MAX = 6 << 20,   /* bytes of a handler's response, as in Lambda */
    AGENT_STREAM_MAX = 200 << 20,   /* bytes of a streamed response, likewise */
    AGENT_CONTENT_TYPE_MAX = 256,   /* characters; of a streamed response */
    AGENT_ERROR_MAX = 256 << 10,    /* bytes of an error object */
    AGENT_REQUEST_ID_MAX = 128,     /* characters */
    AGENT_ARN_MAX = 1024,           /* characters */
    AGENT_FUNCTION_UID = 993,       /* what the function runs as; the group has the same number */
    AGENT_PIDS_MAX = 1024,          /* processes and threads of the function, as in Lambda */
    AGENT_FUNCTION_FILES_MAX = 1024 /* open files per process, as in Lambda */
};

#define AGENT_TASK_DIR "/var/task"
#define AGENT_PYTHON_RUNTIME "python3.11"
#define AGENT_NODEJS_RUNTIME "nodejs18.x"
#define AGENT_PROVIDED_RUNTIME "provided"
#define AGENT_PYTHON_DIR "/usr/lib/mayfly/runtimes/python3.11"
#define AGENT_NODEJS_DIR "/usr/lib/mayfly/runtimes/nodejs18.x"
#define AGENT_RUNTIME_API_PORT 9001

/* An error on its way up: filled by the callee, printed or sent by the caller, never allocated. */
struct failure {
    char text[384]; /* one line */
};

/* failure_set - "<message>: <what errno means>". Returns -code, for `return failure_set(…)`. */
int failure_set(struct failure *failure, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* failure_say - the message alone. Returns -code. */
int failure_say(struct failure *failure, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* agent_say - one line to the guest's kernel log (and so to its console). */
void agent_say(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/*
 * agent_power_off - end the guest. There is no ACPI: a restart request ends in a reset, which the
 * monitor takes for an orderly end if it had asked for one. Files need no sync: all are in memory.
 */
_Noreturn void agent_power_off(void);

/* agent_die - say why, then power off: how PID 1 ends when it cannot go on. */
_Noreturn void agent_die(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* Both are answered in user space (vDSO), without a system call. */
static inline uint64_t agent_monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t agent_unix_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

#endif
