/* A daemon to measure: see bench_daemon.h. Process: the CLI. */
#include "bench_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"

extern char **environ;

enum { READY_MS = 60000, STOP_MS = 60000, LOOK_MS = 20, LOG_MAX_BYTES = 1 << 20 };

/* --- starting -------------------------------------------------------------------------------- */

/* Beside this program, as they are installed. */
static int find_program(char *to, size_t size, struct error *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0)
        return error_set(err, errno, "find mayflyd");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    if (snprintf(to, size, "%s/mayflyd", self) >= (int)size || access(to, X_OK) < 0)
        return error_say(err, ENOENT, "there is no mayflyd in '%s'", self);
    return 0;
}

static int write_config(const char *path, unsigned keep_alive_s, struct error *err)
{
    char text[128];
    int n =
        snprintf(text, sizeof(text), "unsigned_loopback: true\nkeep_alive_s: %u\n", keep_alive_s);
    AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : fd_write_all(fd, text, (size_t)n);

    return r < 0 ? error_set(err, -r, "write '%s'", path) : 0;
}

/* A group of its own: Ctrl-C is for us, who stop it in good order. */
static int spawn(const char *program, char *const argv[], int log, pid_t *ret_pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none;

    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, log, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&files, log, STDOUT_FILENO);
    int r = posix_spawn(ret_pid, program, &files, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

/* The first line with "(port N)", or its last words. */
static int read_port(const char *log_path, unsigned *ret_port, struct error *err)
{
    static const char mark[] = "(port ";
    AUTO_FREE uint8_t *log = NULL;
    size_t len = 0;

    if (fd_read_file(log_path, LOG_MAX_BYTES, &log, &len, NULL) < 0)
        return -EAGAIN;
    const char *at = strstr((const char *)log, mark);
    if (at) {
        *ret_port = (unsigned)strtoul(at + strlen(mark), NULL, 10);
        return 0;
    }
    text_clean(err->text, sizeof(err->text), log, len);
    return -EAGAIN;
}

static int wait_ready(struct bench_daemon *daemon, const char *log_path, struct error *err)
{
    uint64_t until_ns = clock_now_ns() + READY_MS * 1000000ull;
    struct error words = {.text = ""};
    unsigned port = 0;
    int status, r;

    while ((r = read_port(log_path, &port, &words)) == -EAGAIN) {
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
            daemon->pid = 0;
            return error_say(err, EIO, "mayflyd does not start: %.300s", words.text);
        }
        if (clock_now_ns() > until_ns)
            return error_say(err, ETIMEDOUT, "mayflyd is not ready within %d s", READY_MS / 1000);
        poll(NULL, 0, LOOK_MS);
    }
    snprintf(daemon->url, sizeof(daemon->url), "http://127.0.0.1:%u", port);
    return r;
}

int bench_daemon_start(const char *state, unsigned keep_alive_s, struct bench_daemon *ret_daemon,
                       struct error *err)
{
    static char listen_option[] = "--listen", listen[] = "127.0.0.1:0", state_option[] = "--state",
                config_option[] = "--config";
    char program[PATH_MAX], config[PATH_MAX], log_path[PATH_MAX], state_copy[PATH_MAX];
    struct bench_daemon daemon = {.pid = 0};
    int r = find_program(program, sizeof(program), err);

    if (r < 0)
        return r;
    if (snprintf(config, sizeof(config), "%s/mayflyd.yaml", state) >= (int)sizeof(config) ||
        snprintf(log_path, sizeof(log_path), "%s/mayflyd.log", state) >= (int)sizeof(log_path) ||
        snprintf(state_copy, sizeof(state_copy), "%s", state) >= (int)sizeof(state_copy))
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    char *const argv[] = {program,    listen_option, listen, state_option,
                          state_copy, config_option, config, NULL};
    r = write_config(config, keep_alive_s, err);
    if (r < 0)
        return r;
    AUTO_FD log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return error_set(err, errno, "write '%s'", log_path);
    r = spawn(program, argv, log, &daemon.pid);
    if (r < 0)
        return error_set(err, -r, "run '%s'", program);
    r = wait_ready(&daemon, log_path, err);
    if (r < 0) {
        bench_daemon_stop(&daemon);
        return r;
    }
    *ret_daemon = daemon;
    return 0;
}

void bench_daemon_stop(struct bench_daemon *daemon)
{
    uint64_t until_ns = clock_now_ns() + STOP_MS * 1000000ull;
    int status;

    if (daemon->pid <= 0)
        return;
    kill(daemon->pid, SIGTERM);
    while (waitpid(daemon->pid, &status, WNOHANG) == 0) {
        if (clock_now_ns() > until_ns)
            kill(daemon->pid, SIGKILL);
        poll(NULL, 0, LOOK_MS);
    }
    daemon->pid = 0;
}

/* --- figures --------------------------------------------------------------------------------- */

uint64_t bench_daemon_cpu_ns(const struct bench_daemon *daemon)
{
    struct timespec spent;
    clockid_t clock;

    if (clock_getcpuclockid(daemon->pid, &clock) != 0 || clock_gettime(clock, &spent) < 0)
        return 0;
    return (uint64_t)spent.tv_sec * 1000000000u + (uint64_t)spent.tv_nsec;
}

uint64_t bench_daemon_rss_bytes(const struct bench_daemon *daemon)
{
    AUTO_FREE uint8_t *text = NULL;
    unsigned long long kib = 0;
    char path[64];
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)daemon->pid);
    if (fd_read_file(path, 64 * 1024, &text, &len, NULL) < 0)
        return 0;
    const char *line = strstr((const char *)text, "VmRSS:");
    return line && sscanf(line, "VmRSS: %llu kB", &kib) == 1 ? kib * 1024u : 0;
}
