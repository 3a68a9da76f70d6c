/* What the commands of `mayfly` share: exit statuses, arguments, Ctrl-C, terminals. */
#ifndef MAYFLY_CLI_CLI_COMMON_H
#define MAYFLY_CLI_CLI_COMMON_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum cli_status {
    CLI_OK = 0,
    CLI_FUNCTION_ERROR = 1, /* the handler raised, exited, took too long, … */
    CLI_USAGE = 2,          /* the command, the package or the event is wrong */
    CLI_HOST_ERROR = 3,     /* the host could not run it */
    CLI_INTERRUPTED = 130,  /* Ctrl-C, as shells have it: 128 + SIGINT */
};

/* cli_usage - "mayfly COMMAND: what is wrong" on stderr, and where help is. Returns CLI_USAGE. */
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* cli_complain - one line on stderr: "mayfly COMMAND: …". Control characters become '?'. */
void cli_complain(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * cli_catch_interrupts - from here on SIGINT, SIGTERM and SIGHUP do not kill: they make the
 * returned fd readable for good (borrowed, for poll()) and set *ret_flag (may be NULL).
 * SIGPIPE and SIGXFSZ become errors of write(). Once a process. Returns -errno on failure.
 */
int cli_catch_interrupts(const volatile sig_atomic_t **ret_flag);

/* cli_interrupted - has one arrived? */
bool cli_interrupted(void);

/* cli_parse_number - decimal, whole, @min to @max. False if it is not. */
bool cli_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

/* cli_parse_seconds - "3" or "0.25", from @min_ms to @max_ms. False if it is not. */
bool cli_parse_seconds(const char *text, uint64_t min_ms, uint64_t max_ms, uint64_t *ret_ms);

/* cli_state_directory - @given, else $MAYFLY_STATE, else /var/lib/mayfly. Borrowed. */
const char *cli_state_directory(const char *given);

/* cli_colour - may this stream be coloured? A terminal, and NO_COLOR is not set. */
bool cli_colour(FILE *stream);

/* cli_print_text - a function's own text: control characters other than line ends and tabs become
 * '?', so that it cannot drive a terminal. */
void cli_print_text(FILE *to, const char *text, size_t len_bytes);

/*
 * cli_read_input - all of a file, or of stdin for "-", at most @limit_bytes (else -EFBIG).
 * Gives way to Ctrl-C (-EINTR). *ret_data is owned and has a 0 after it.
 */
int cli_read_input(const char *path, size_t limit_bytes, int interrupt_fd, uint8_t **ret_data,
                   size_t *ret_len_bytes, struct error *err);

/* cli_print_json - @object (taken over) on stdout, for --json; -errno if stdout takes no more. */
int cli_print_json(json_t *object, struct error *err);

#endif
