/*
 * mayfly-vmm: one process, one microVM. Started by the host's kvm driver with a control socket;
 * everything it needs comes over that socket as open descriptors.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "common/bytes.h"
#include "common/loop.h"
#include "control.h"

enum { EXIT_USAGE = 2, EXIT_HOST = 3 };

static const char help[] =
    "mayfly-vmm - run one microVM\n"
    "\n"
    "usage: mayfly-vmm --control-fd N [--seccomp WAY] [--dumpable] [--name NAME]\n"
    "\n"
    "The host manager starts one for each microVM and tells it what to run over descriptor N, an\n"
    "AF_UNIX SOCK_SEQPACKET socket, in the messages of vmm/monitor/control.proto. It ends when "
    "the\n"
    "other end of that socket is closed. To run a function by hand, see `mayfly run --help`.\n"
    "\n"
    "  --control-fd N   the control socket\n"
    "  --seccomp WAY    what a forbidden system call leads to: kill (default) ends the process,\n"
    "                   trap ends it with a line that names the call, off allows all\n"
    "  --dumpable       /proc shows this process to its own user: for a host without privileges\n"
    "  --name NAME      shown by ps; has no other effect\n"
    "  --version        print the version and exit\n";

static int usage(const char *why)
{
    fprintf(stderr, "mayfly-vmm: %s (try --help)\n", why);
    return EXIT_USAGE;
}

static int serve(int control_fd, enum seccomp_way way)
{
    struct loop *loop = NULL;
    struct control *control = NULL;
    struct error err = {0};
    int r = loop_new(&loop, &err);

    if (r == 0)
        r = control_new(control_fd, loop, way, &control, &err);
    if (r == 0) {
        r = loop_run(loop);
        if (r < 0)
            error_set(&err, -r, "control socket");
    }
    control_free(control);
    loop_free(loop);
    if (r < 0)
        fprintf(stderr, "mayfly-vmm: %s\n", err.text);
    return r < 0 ? EXIT_HOST : 0;
}

/* False: no such way. */
static bool parse_way(const char *text, enum seccomp_way *ret_way)
{
    static const char *const names[] = {
        [SECCOMP_KILL] = "kill", [SECCOMP_TRAP] = "trap", [SECCOMP_OFF] = "off"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_way = (enum seccomp_way)i;
            return true;
        }
    }
    return false;
}

/* What the process itself can do for its isolation; the rest was done before it was executed. */
static void settle(bool dumpable)
{
    /* Executed by descriptor, it would be called after its number. */
    prctl(PR_SET_NAME, "mayfly-vmm", 0, 0, 0);
    /* execve() made it dumpable again: now others of the same user can neither trace it nor read
     * its memory. */
    if (!dumpable)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* One heap: a second would be made by a vCPU's thread, with calls that its filter forbids. */
    mallopt(M_ARENA_MAX, 1);
    signal(SIGPIPE, SIG_IGN);
    /* Ctrl-C in the terminal goes to the whole foreground group; the host decides, not the key. */
    signal(SIGINT, SIG_IGN);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"control-fd", required_argument, NULL, 'c'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"seccomp", required_argument, NULL, 's'},
                                            {"dumpable", no_argument, NULL, 'd'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'V'},
                                            {NULL, 0, NULL, 0}};
    enum seccomp_way way = SECCOMP_KILL;
    bool dumpable = false;
    long control_fd = -1;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end;

        switch (option) {
        case 'c':
            control_fd = strtol(optarg, &end, 10);
            if (*optarg == 0 || *end != 0 || control_fd < 3 || control_fd > 1023)
                return usage("--control-fd wants a descriptor number from 3 to 1023");
            break;
        case 'n':
            break;
        case 's':
            if (!parse_way(optarg, &way))
                return usage("--seccomp is kill, trap or off");
            break;
        case 'd':
            dumpable = true;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'V':
            puts("mayfly-vmm " MAYFLY_VERSION);
            return 0;
        default:
            return EXIT_USAGE;
        }
    }
    if (control_fd < 0 || optind != argc)
        return usage("--control-fd is missing");
    settle(dumpable);
    return serve((int)control_fd, way);
}
