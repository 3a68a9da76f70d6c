/* `mayfly doctor`: libraries, other programs, and what Mayfly itself still has to build. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <protobuf-c/protobuf-c.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "doctor.h"
#include "images/image_store.h"

enum { PROGRAM_WAIT_MS = 5000 };

/* Reads until a newline, the end or the deadline. */
static size_t read_some(int fd, char *to, size_t size)
{
    uint64_t deadline_ms = clock_now_us() / 1000 + PROGRAM_WAIT_MS;
    size_t used = 0;

    while (used < size && !memchr(to, '\n', used)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        uint64_t now_ms = clock_now_us() / 1000;

        if (now_ms >= deadline_ms || poll(&wait, 1, (int)(deadline_ms - now_ms)) <= 0)
            break;
        ssize_t n = read(fd, to + used, size - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    return used;
}

static int spawn_with_output(const char *program, int output, pid_t *ret_pid)
{
    extern char **environ;
    char *const arguments[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "--version", NULL};
    posix_spawn_file_actions_t actions;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int r = posix_spawnp(ret_pid, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

/* The first line that `@program --version` prints. False if there is no such program. */
static bool version_of(const char *program, char *line, size_t size)
{
    char raw[256];
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    AUTO_FD read_end = ends[0];
    int r = spawn_with_output(program, ends[1], &pid);
    close(ends[1]);
    if (r < 0)
        return false;
    size_t used = read_some(read_end, raw, sizeof(raw));
    const char *newline = memchr(raw, '\n', used);
    text_clean(line, size, raw, newline ? (size_t)(newline - raw) : used);
    kill(pid, SIGKILL); /* it has said what was wanted, or will not */
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return used > 0;
}

static void check_program(struct doctor *doctor, const char *name, const char *program,
                          const char *advice)
{
    char line[100];

    if (version_of(program, line, sizeof(line)))
        doctor_add(doctor, name, DOCTOR_GOOD, "", "%s", line);
    else
        doctor_add(doctor, name, DOCTOR_MISSING, advice, "not installed");
}

void doctor_check_software(struct doctor *doctor)
{
    doctor_add(doctor, "zstd library", DOCTOR_GOOD, "", "%s", ZSTD_versionString());
    doctor_add(doctor, "protobuf-c library", DOCTOR_GOOD, "", "%s", protobuf_c_version());
    check_program(doctor, "libvirt", "virsh",
                  "not needed; the libvirt driver wants: apt-get install libvirt-clients "
                  "libvirt-daemon");
    check_program(doctor, "QEMU", "qemu-system-x86_64",
                  "not needed; the libvirt driver wants: apt-get install qemu-system-x86");
}

static void check_image(struct doctor *doctor, struct image_store *store, const char *label,
                        const char *name, const char *advice)
{
    struct image_info info;
    struct error err;

    if (image_store_find(store, name, &info, &err) < 0)
        doctor_add(doctor, label, DOCTOR_MISSING, advice, "'%s' is not in the store", name);
    else
        doctor_add(doctor, label, DOCTOR_GOOD, "", "'%s', %.1f MiB, %.1f MiB at rest", name,
                   (double)info.raw_bytes / (1 << 20), (double)info.stored_bytes / (1 << 20));
}

void doctor_check_images(struct doctor *doctor)
{
    static const char advice[] = "from the source tree: make assets";
    struct image_store *store = NULL;
    struct error err;
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/images", doctor->state);
    /* Looking must not make anything: only a store that is there is opened. */
    if (access(path, F_OK) < 0 || image_store_open(path, &store, &err) < 0) {
        doctor_add(doctor, "guest kernel", DOCTOR_MISSING, advice, "no image store in '%.80s'",
                   doctor->state);
        return;
    }
    check_image(doctor, store, "guest kernel", "linux-6.12", advice);
    check_image(doctor, store, "Python image", "python3.11", advice);
    check_image(doctor, store, "Node.js image", "nodejs18.x", advice);
    check_image(doctor, store, "base image", "base", advice);
    image_store_close(store);
}
