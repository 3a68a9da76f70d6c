/*
 * What the commands that talk to mayflyd share: where it is, and how failures end. Process: the
 * CLI.
 */
#ifndef MAYFLY_CLI_DAEMON_SESSION_H
#define MAYFLY_CLI_DAEMON_SESSION_H

#include <stdbool.h>

#include "api_client.h"
#include "cli_syntax.h"

struct daemon_options {
    const char *state, *endpoint, *tenant; /* NULL: not given; borrowed from argv */
    bool json;
};

/* In the table of a command whose options hold a struct daemon_options `daemon`. */
#define DAEMON_OPTIONS(type)                                                                       \
    {"json",                                                                                       \
     0,                                                                                            \
     CLI_FLAG,                                                                                     \
     offsetof(type, daemon.json),                                                                  \
     NULL,                                                                                         \
     "print one JSON object on stdout",                                                            \
     0,                                                                                            \
     0,                                                                                            \
     COMPLETE_NOTHING},                                                                            \
        {"state",                                                                                  \
         0,                                                                                        \
         CLI_TEXT,                                                                                 \
         offsetof(type, daemon.state),                                                             \
         "DIR",                                                                                    \
         "the daemon on this host that has this state: on its socket\n"                            \
         "DIR/mayflyd.sock (default $MAYFLY_STATE, /var/lib/mayfly)",                              \
         0,                                                                                        \
         0,                                                                                        \
         COMPLETE_DIRECTORY},                                                                      \
        {"endpoint",                                                                               \
         0,                                                                                        \
         CLI_TEXT,                                                                                 \
         offsetof(type, daemon.endpoint),                                                          \
         "URL",                                                                                    \
         "the daemon at this URL (default $MAYFLY_ENDPOINT); signed\n"                             \
         "with $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY",                                     \
         0,                                                                                        \
         0,                                                                                        \
         COMPLETE_NOTHING},                                                                        \
    {                                                                                              \
        "tenant", 0, CLI_TEXT, offsetof(type, daemon.tenant), "NAME",                              \
            "on the socket: whose functions, where there are several", 0, 0, COMPLETE_NOTHING      \
    }

/* One command's conversation. */
struct daemon_session {
    const char *command; /* for messages */
    struct api_client *client;
    const char *state; /* the directory that was settled on */
    int interrupt_fd;
};

/*
 * daemon_session_open - catches interrupts, finds the daemon; does not connect yet. Returns -1 to
 * go on, else the exit status (and a line is on stderr). daemon_session_done() it in either case.
 */
int daemon_session_open(const char *command, const struct daemon_options *options,
                        struct daemon_session *session);
void daemon_session_done(struct daemon_session *session);

/*
 * daemon_session_fail - @err on stderr, and the exit status for it: CLI_USAGE for what is wrong
 * with the command or what it names, CLI_INTERRUPTED, else CLI_HOST_ERROR.
 */
int daemon_session_fail(const struct daemon_session *session, const struct error *err);

/* daemon_split_name - "name:qualifier" to its parts; *ret_qualifier NULL without one. @name is
 * written to. An ARN stays as it is. */
void daemon_split_name(char *name, const char **ret_qualifier);

/* daemon_flush - stdout is on its way: CLI_OK, or CLI_HOST_ERROR and a line on stderr. */
int daemon_flush(const struct daemon_session *session);

/* json_text - a member that is a string, else "". Borrowed. json_whole - a number, else 0. */
const char *json_text(const json_t *object, const char *member);
json_int_t json_whole(const json_t *object, const char *member);

#endif
