/* The agent's session with its host: from Hello to power-off. */
#ifndef MAYFLY_AGENT_SESSION_H
#define MAYFLY_AGENT_SESSION_H

#include <stdbool.h>

#include "guest-agent/agent.h"

/* What boot has made; the session owns all of it from then on. */
struct session_start {
    int host_fd;    /* connected to the host */
    int null_fd;    /* on /dev/null, above 2 */
    int boot_id_fd; /* see identity.h; may be -errno */
    uint64_t start_tsc;
};

/*
 * agent_session_run - say Hello and serve until the end. Must be called once, after all mounts; the
 * process's own thread stays in it. Powers the guest off when the host says so or goes away.
 */
_Noreturn void agent_session_run(const struct session_start *start);

#endif
