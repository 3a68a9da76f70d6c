/* wrk as a child: see bench_wrk.h. Process: the CLI. Input: what wrk prints, bounded. */
#include "bench_wrk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/fd.h"
#include "common/text.h"

extern char **environ;

enum { OUTPUT_BYTES = 8192, MAX_ARGUMENTS = 20, TEXT_BYTES = 640 };

/* --- what it prints -------------------------------------------------------------------------- */

/* "     50%  760.00us": to microseconds; 0: not there. */
static double latency_us(const char *text, const char *percent)
{
    const char *at = strstr(text, percent);
    char *unit;

    if (!at)
        return 0;
    double value = strtod(at + strlen(percent), &unit);
    if (strncmp(unit, "us", 2) == 0)
        return value;
    return strncmp(unit, "ms", 2) == 0 ? value * 1e3 : unit[0] == 's' ? value * 1e6 : 0;
}

static uint64_t count_after(const char *text, const char *words)
{
    const char *at = strstr(text, words);

    return at ? strtoull(at + strlen(words), NULL, 10) : 0;
}

int bench_wrk_parse(const char *text, struct bench_wrk_result *ret_result)
{
    static const char rate[] = "Requests/sec:", errors[] = "Socket errors:";
    const char *at = strstr(text, rate), *broken = strstr(text, errors);

    if (!at)
        return -EBADMSG;
    *ret_result = (struct bench_wrk_result){.per_second = strtod(at + strlen(rate), NULL),
                                            .p50_us = latency_us(text, " 50% "),
                                            .p99_us = latency_us(text, " 99% "),
                                            .bad = count_after(text, "Non-2xx or 3xx responses:")};
    if (broken)
        ret_result->bad += count_after(broken, "connect") + count_after(broken, "read") +
                           count_after(broken, "write") + count_after(broken, "timeout");
    return 0;
}

/* --- running it ------------------------------------------------------------------------------ */

static int run(char *const argv[], int out, int *ret_status, struct error *err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    pid_t pid;

    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE); /* ignored here, and that would be inherited */
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, out, STDERR_FILENO);
    int r = posix_spawnp(&pid, argv[0], &files, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (r == ENOENT)
        return error_say(err, ENOENT,
                         "there is no wrk, which measures dry invocations: apt-get install wrk, or "
                         "leave them out with --seconds 0");
    if (r != 0)
        return error_set(err, r, "run wrk");
    while (waitpid(pid, ret_status, 0) < 0)
        if (errno != EINTR)
            return error_set(err, errno, "wait for wrk");
    return 0;
}

int bench_wrk_check(struct error *err)
{
    static char name[] = "wrk", version[] = "--version";
    char *const argv[] = {name, version, NULL};
    AUTO_FD nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    int status;

    return nothing < 0 ? error_set(err, errno, "open /dev/null") : run(argv, nothing, &status, err);
}

/* wrk sends GET unless a script says otherwise. */
static int write_script(const char *path, struct error *err)
{
    static const char script[] = "wrk.method = \"POST\"\nwrk.body = \"{}\"\n";
    AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : fd_write_all(fd, script, sizeof(script) - 1);

    return r < 0 ? error_set(err, -r, "write '%s'", path) : 0;
}

static int take_output(int fd, int status, struct bench_wrk_result *ret_result, struct error *err)
{
    char text[OUTPUT_BYTES], words[300];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && bench_wrk_parse(text, ret_result) == 0)
        return 0;
    text_clean(words, sizeof(words), text, strlen(text));
    return error_say(err, EIO, "wrk failed: %s", words);
}

int bench_wrk_run(const struct bench_wrk_load *load, const char *directory,
                  struct bench_wrk_result *ret_result, struct error *err)
{
    static char name[] = "wrk", threads[] = "-t1", latency[] = "--latency", script[] = "-s",
                header[] = "-H", dry[] = "X-Amz-Invocation-Type: DryRun",
                type[] = "Content-Type: application/json";
    char path[PATH_MAX], url[256], connections[16], duration[16], authorization[TEXT_BYTES],
        date[TEXT_BYTES];
    char *argv[MAX_ARGUMENTS] = {name, threads, connections, duration, latency, script,
                                 path, header,  dry,         header,   type};
    size_t n = 11;
    int status;

    if (snprintf(path, sizeof(path), "%s/dry.lua", directory) >= (int)sizeof(path))
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    snprintf(url, sizeof(url), "%s/2015-03-31/functions/%s/invocations", load->url, load->function);
    snprintf(connections, sizeof(connections), "-c%u", load->connections);
    snprintf(duration, sizeof(duration), "-d%us", load->seconds);
    if (load->signature) {
        snprintf(authorization, sizeof(authorization), "Authorization: %s",
                 load->signature->authorization);
        snprintf(date, sizeof(date), "X-Amz-Date: %s", load->signature->date);
        argv[n++] = header;
        argv[n++] = authorization;
        argv[n++] = header;
        argv[n++] = date;
    }
    argv[n++] = url;
    int r = write_script(path, err);
    AUTO_FD out = memfd_create("wrk-output", MFD_CLOEXEC);
    if (r == 0 && out < 0)
        r = error_set(err, errno, "run wrk");
    if (r == 0)
        r = run(argv, out, &status, err);
    return r < 0 ? r : take_output(out, status, ret_result, err);
}
