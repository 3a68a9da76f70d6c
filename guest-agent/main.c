/*
 * mayfly-agent: PID 1 of a guest. This file is the order of its boot and nothing else.
 *
 * Read next: session.c (its life), runtime.h (what it runs), proto/agent.proto (what it says).
 * Every system call counts here: on a host that emulates the guest's kernel one costs milliseconds.
 */
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#include "guest-agent/boot_mounts.h"
#include "guest-agent/identity.h"
#include "guest-agent/session.h"
#include "guest-agent/transport.h"

int main(int argc, char **argv)
{
    struct session_start start = {.start_tsc = __rdtsc()};
    /* For tests: the agent as PID 1 of a namespace of an ordinary machine. */
    const char *socket_path = argc == 3 && strcmp(argv[1], "--socket") == 0 ? argv[2] : NULL;
    struct failure failure;

    if (getpid() != 1) {
        static const char words[] = "mayfly-agent: runs only as the first process of a guest\n";

        return write(STDERR_FILENO, words, sizeof(words) - 1) < 0 ? 3 : 2;
    }
    if (boot_mounts(socket_path != NULL, &failure) < 0)
        agent_die("%s", failure.text);
    start.null_fd = boot_standard_files(&failure);
    if (start.null_fd < 0)
        agent_die("%s", failure.text);
    start.boot_id_fd = identity_open(&failure);
    if (start.boot_id_fd < 0)
        agent_say("%s", failure.text);
    if (boot_loopback_up(&failure) < 0)
        agent_say("%s", failure.text);
    start.host_fd = agent_transport_connect(socket_path, &failure);
    if (start.host_fd < 0)
        agent_die("%s", failure.text);
    agent_session_run(&start);
}
