/*
 * Programs that build images (mmdebstrap, mkfs.erofs, …): see image_child.h.
 * Process: the CLI. What a child prints is untrusted text: control characters are replaced before
 * it becomes part of an error.
 */
#include "images/image_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"

enum {
    TICK_MS = 100,
    GRACE_MS = 5000,
    TAIL_BYTES = 65536,
    WORDS_BYTES = 360,
    ENVIRONMENT_MAX = 16
};

/* --- in the child ---------------------------------------------------------------------------- */

/* Fixed variables, and those that say how to reach the network. Everything else stays behind. */
static char **child_environment(void)
{
    static char fixed[][48] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/",
                               "DEBIAN_FRONTEND=noninteractive"};
    static const char *const kept[] = {"TMPDIR=",    "http_proxy=", "https_proxy=", "no_proxy=",
                                       "ftp_proxy=", "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY="};
    static char *environment[ENVIRONMENT_MAX];
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        environment[n++] = fixed[i];
    for (char **own = environ; *own; own++)
        for (size_t i = 0; i < ARRAY_LEN(kept) && n < ENVIRONMENT_MAX - 1; i++)
            if (strncmp(*own, kept[i], strlen(kept[i])) == 0)
                environment[n++] = *own;
    environment[n] = NULL;
    return environment;
}

/* A process group of its own, so that a Ctrl-C at the terminal reaches it through us, once. */
static int enter_child(const struct child *child, int log_fd, struct error *err)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXFSZ};
    sigset_t none;
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    setpgid(0, 0);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        signal(signals[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0)
        return error_set(err, errno, "redirect the output of a child process");
    if (child->root && (chroot(child->root) < 0 || chdir("/") < 0))
        return error_set(err, errno, "enter '%s'", child->root);
    return 0;
}

_Noreturn static void child_main(const struct child *child, int log_fd, int report_fd)
{
    struct error err = {0};
    int r = enter_child(child, log_fd, &err);

    if (r == 0 && child->call) {
        r = child->call(child->opaque, &err);
    } else if (r == 0) {
        execvpe(child->argv[0], (char *const *)(uintptr_t)child->argv, child_environment());
        r = error_set(&err, errno, "run %s", child->argv[0]);
    }
    if (r < 0 && fd_write_all(report_fd, &err, sizeof(err)) < 0)
        _exit(126);
    _exit(r < 0 ? 125 : 0);
}

/* --- in the parent --------------------------------------------------------------------------- */

static bool is_cancelled(const struct child *child)
{
    return child->watch && child->watch->cancelled && *child->watch->cancelled;
}

/* Reaps when the child has ended; -EAGAIN if it has not after @timeout_ms, or -errno. */
static int await_end(int pid_fd, pid_t pid, int timeout_ms, int *ret_status)
{
    struct pollfd poll_fd = {.fd = pid_fd, .events = POLLIN};

    if (poll(&poll_fd, 1, timeout_ms) < 0 && errno != EINTR)
        return -errno;
    pid_t reaped = waitpid(pid, ret_status, WNOHANG);
    if (reaped == 0 || (reaped < 0 && errno == EINTR))
        return -EAGAIN;
    return reaped < 0 ? -errno : 0;
}

/* Asks the child's whole group to end, then makes it. */
static void end_child(int pid_fd, pid_t pid)
{
    uint64_t start_us = clock_now_us();
    int status, r = -EAGAIN;

    kill(-pid, SIGTERM);
    while (r == -EAGAIN && clock_now_us() - start_us < GRACE_MS * UINT64_C(1000))
        r = await_end(pid_fd, pid, TICK_MS, &status);
    kill(-pid, SIGKILL);
    if (r == -EAGAIN)
        waitpid(pid, &status, 0);
}

static int watch_child(const struct child *child, pid_t pid, int *ret_status, struct error *err)
{
    AUTO_FD pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    const struct image_watch *watch = child->watch;

    for (;;) {
        int r = pid_fd < 0 ? -errno : await_end(pid_fd, pid, TICK_MS, ret_status);

        if (r == 0)
            return 0;
        if (r != -EAGAIN || is_cancelled(child)) {
            end_child(pid_fd, pid);
            return r == -EAGAIN ? error_say(err, EINTR, "interrupted")
                                : error_set(err, -r, "wait for %s", child->stage);
        }
        if (watch && watch->progress)
            watch->progress(watch->opaque, child->stage, 0, 0);
    }
}

/*
 * What the child had to say, on one line: its lines that start with "E: ", as apt and its kin mark
 * errors, else the end of its output.
 */
static void pick_words(char *text, char words[WORDS_BYTES])
{
    char *state = NULL;
    size_t len = strlen(text), used = 0;
    const char *end = text + (len >= WORDS_BYTES ? len - WORDS_BYTES + 1 : 0);

    snprintf(words, WORDS_BYTES, "%s", end);
    for (char *line = strtok_r(text, "\n", &state); line && used < WORDS_BYTES - 1;
         line = strtok_r(NULL, "\n", &state)) {
        if (strncmp(line, "E: ", 3) == 0)
            used += (size_t)snprintf(words + used, WORDS_BYTES - used, "%s%s", used ? "|" : "",
                                     line + 3);
    }
    for (len = strlen(words); len > 0 && strchr("\n ", words[len - 1]); len--)
        words[len - 1] = 0;
    for (size_t i = 0; i < len; i++)
        if (words[i] == '\n')
            words[i] = '|';
        else if ((unsigned char)words[i] < ' ' || words[i] == 0x7f)
            words[i] = ' ';
}

/* The end of the log since @start. */
static void log_words(int log_fd, off_t start, char words[WORDS_BYTES])
{
    AUTO_FREE char *text = calloc(1, TAIL_BYTES + 1);
    struct stat st;

    words[0] = 0;
    if (!text || fstat(log_fd, &st) < 0 || st.st_size <= start)
        return;
    off_t from = st.st_size - start > TAIL_BYTES ? st.st_size - TAIL_BYTES : start;
    if (fd_pread_all(log_fd, text, (size_t)(st.st_size - from), from) == 0)
        pick_words(text, words);
}

static int explain(const struct child *child, int status, int report_fd, int log_fd, off_t start,
                   struct error *err)
{
    char words[WORDS_BYTES];
    struct error report;

    if (fd_read_all(report_fd, &report, sizeof(report)) == 0) {
        report.text[sizeof(report.text) - 1] = 0;
        return error_say(err, report.code, "%s", report.text);
    }
    log_words(log_fd, start, words);
    const char *name = child->argv ? child->argv[0] : child->stage;
    if (WIFSIGNALED(status))
        return error_say(err, EIO, "%s was ended by signal %d (log: %s): %s", name,
                         WTERMSIG(status), child->log, words);
    return error_say(err, EIO, "%s failed with status %d (log: %s): %s", name, WEXITSTATUS(status),
                     child->log, words);
}

int child_run(const struct child *child, struct error *err)
{
    int report[2], status = 0;
    struct stat st;
    AUTO_FD log_fd = open(child->log, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);

    if (log_fd < 0 || fstat(log_fd, &st) < 0)
        return error_set(err, errno, "open log '%s'", child->log);
    if (pipe2(report, O_CLOEXEC) < 0)
        return error_set(err, errno, "make a pipe");
    AUTO_FD report_read = report[0];
    AUTO_FD report_write = report[1];
    pid_t pid = fork();
    if (pid < 0)
        return error_set(err, errno, "start %s", child->stage);
    if (pid == 0)
        child_main(child, log_fd, report_write);
    setpgid(pid, pid); /* the child does it as well: whoever comes first */
    close(fd_steal(&report_write));
    int r = watch_child(child, pid, &status, err);
    if (r < 0)
        return r;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return explain(child, status, report_read, log_fd, st.st_size, err);
}
