/*
 * mayfly-vmm: one process, one microVM. Started by the host's kvm driver with a control socket;
 * everything it needs comes over that socket as open descriptors.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "control.h"

enum { EXIT_USAGE = 2, EXIT_HOST = 3 };

static const char help[] =
    "mayfly-vmm - run one microVM\n"
    "\n"
    "usage: mayfly-vmm --control-fd N [--name NAME]\n"
    "\n"
    "The host manager starts one for each microVM and tells it what to run over descriptor N, an\n"
    "AF_UNIX SOCK_SEQPACKET socket, in the messages of vmm/monitor/control.proto. It ends when "
    "the\n"
    "other end of that socket is closed. To run a function by hand, see `mayfly run --help`.\n"
    "\n"
    "  --control-fd N   the control socket\n"
    "  --name NAME      shown by ps; has no other effect\n"
    "  --version        print the version and exit\n";

static int usage(const char *why)
{
    fprintf(stderr, "mayfly-vmm: %s (try --help)\n", why);
    return EXIT_USAGE;
}

static int serve(int control_fd)
{
    struct loop *loop = NULL;
    struct control *control = NULL;
    struct error err = {0};
    int r = loop_new(&loop, &err);

    if (r == 0)
        r = control_new(control_fd, loop, &control, &err);
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

int main(int argc, char **argv)
{
    static const struct option options[] = {{"control-fd", required_argument, NULL, 'c'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'V'},
                                            {NULL, 0, NULL, 0}};
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
    signal(SIGPIPE, SIG_IGN);
    /* Ctrl-C in the terminal goes to the whole foreground group; the host decides, not the key. */
    signal(SIGINT, SIG_IGN);
    return serve((int)control_fd);
}
