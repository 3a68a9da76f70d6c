/*
 * `mayfly image`: build, import, list, check and remove images. Process: the CLI.
 * Its arguments are the administrator's; what the store holds is checked by images/.
 * stdout has the result only; progress and errors go to stderr.
 */
#include "cli/cmd_image.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli_common.h"
#include "cli/progress.h"
#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_builder.h"
#include "images/image_manifest.h"
#include "images/image_store.h"

enum { STATUS_OK = 0, STATUS_USAGE = 2, STATUS_FAILED = 3, DIGEST_SHOWN = 12 };

static const char help[] =
    "mayfly image - the root images and kernels that microVMs of this host start from\n"
    "\n"
    "  mayfly image build RECIPE            make a root image from Debian packages\n"
    "  mayfly image import DIR|TAR --name N make one from a directory or a tar archive\n"
    "  mayfly image add-kernel FILE --name N  add a guest kernel (an ELF vmlinux)\n"
    "  mayfly image ls                      what there is\n"
    "  mayfly image inspect NAME            all that is known of one image\n"
    "  mayfly image verify [NAME]           read and check every byte of one image, or of all\n"
    "  mayfly image rm NAME...              remove images\n"
    "\n"
    "RECIPE is a YAML file, or the name of one that comes with Mayfly (base, python3.11).\n"
    "NAME is an image's name or the first 8 or more digits of its digest.\n"
    "\n"
    "Options\n"
    "  --store DIR      the image store (default: $MAYFLY_STATE/images, /var/lib/mayfly/images)\n"
    "  --json           print the result as one JSON object\n"
    "  --name N         build, import, add-kernel: the image's name (a-z 0-9 . _ -)\n"
    "  --kind K         import: root (default) or kernel (then as add-kernel)\n"
    "  --runtime R      import: what the agent in it can run (python3.11, provided)\n"
    "  --agent FILE     build, import: the guest agent to put in (default: mayfly-agent beside\n"
    "                   this program)\n"
    "  --source DIR     build: where recipes and the files they name are (default: the source "
    "tree\n"
    "                   this program was built in, or the current directory)\n"
    "  --if-changed     build: not if the store has an image made from the same recipe, agent and\n"
    "                   files\n"
    "\n"
    "Examples\n"
    "  mayfly image build python3.11\n"
    "  mayfly image build ./my-recipe.yaml --name team-python --json\n"
    "  docker export c1 > c1.tar && mayfly image import c1.tar --name c1 --runtime provided\n"
    "  mayfly image add-kernel vmlinux --name linux-6.12\n"
    "  mayfly image verify && mayfly image ls\n"
    "\n"
    "Exit status: 0 done, 2 wrong usage, 3 it failed (one line on stderr says why).\n";

struct options {
    char store[PATH_MAX];
    char agent[PATH_MAX];
    char source[PATH_MAX];
    const char *name;    /* NULL: not given */
    const char *runtime; /* "": not given */
    bool is_kernel;      /* import --kind kernel: the same as add-kernel */
    bool json, if_changed, help;
};

/* One command under way. */
struct context {
    struct options options;
    struct image_store *store; /* owned */
    struct progress progress;
    struct image_watch watch;
};

static volatile sig_atomic_t cancelled;

static void on_signal(int signal_number)
{
    (void)signal_number;
    cancelled = 1;
}

/* Ctrl-C ends long calls in an orderly way; a full file size limit is an error, not a death. */
static void handle_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};

    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGHUP, &stop, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
}

/* --- options --------------------------------------------------------------------------------- */

static bool is_readable(const char *path)
{
    return access(path, R_OK) == 0;
}

/* Beside this program, else where the build puts it. */
static void default_agent(char agent[PATH_MAX], const char *own_directory)
{
    if (snprintf(agent, PATH_MAX, "%s/mayfly-agent", own_directory) >= PATH_MAX ||
        !is_readable(agent))
        snprintf(agent, PATH_MAX, "build/bin/mayfly-agent");
}

/* The first directory that has recipes: here, or two above build/bin, or an installation's. */
static void default_source(char source[PATH_MAX], const char *own_directory)
{
    static const char *const candidates[] = {"/../..", "/../share/mayfly"};
    char probe[PATH_MAX];

    snprintf(source, PATH_MAX, ".");
    if (is_readable("images/recipes"))
        return;
    for (size_t i = 0; i < ARRAY_LEN(candidates); i++)
        if (snprintf(probe, sizeof(probe), "%.3900s%s/images/recipes", own_directory,
                     candidates[i]) > 0 &&
            is_readable(probe)) {
            snprintf(source, PATH_MAX, "%.3900s%s", own_directory, candidates[i]);
            return;
        }
}

static void default_options(struct options *options)
{
    char own[PATH_MAX];
    const char *state = getenv("MAYFLY_STATE");
    ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);

    own[len > 0 ? len : 0] = 0;
    char *slash = strrchr(own, '/');
    if (slash)
        *slash = 0;
    *options = (struct options){.runtime = ""};
    snprintf(options->store, sizeof(options->store), "%s/images",
             state && state[0] ? state : "/var/lib/mayfly");
    default_agent(options->agent, own);
    default_source(options->source, own);
}

/* @subject: what it is about, in quotes; NULL: nothing to quote. */
static int usage(const char *subject, const char *problem)
{
    fprintf(stderr, "mayfly image: %s%s%s%s (see mayfly image --help)\n", subject ? "'" : "",
            subject ? subject : "", subject ? "' " : "", problem);
    return STATUS_USAGE;
}

/* 0, or STATUS_USAGE after getopt has said what is wrong. Arguments end up at argv[optind]. */
static int parse_options(int argc, char **argv, struct options *options)
{
    enum { STORE = 256, JSON, NAME, RUNTIME, AGENT, SOURCE, IF_CHANGED, KIND };
    static const struct option known[] = {{"store", required_argument, NULL, STORE},
                                          {"json", no_argument, NULL, JSON},
                                          {"name", required_argument, NULL, NAME},
                                          {"runtime", required_argument, NULL, RUNTIME},
                                          {"agent", required_argument, NULL, AGENT},
                                          {"source", required_argument, NULL, SOURCE},
                                          {"if-changed", no_argument, NULL, IF_CHANGED},
                                          {"kind", required_argument, NULL, KIND},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option;

    default_options(options);
    optind = 0; /* as if getopt had never run */
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (option) {
        case STORE:
            snprintf(options->store, sizeof(options->store), "%s", optarg);
            break;
        case JSON:
            options->json = true;
            break;
        case NAME:
            options->name = optarg;
            break;
        case RUNTIME:
            options->runtime = optarg;
            break;
        case AGENT:
            snprintf(options->agent, sizeof(options->agent), "%s", optarg);
            break;
        case SOURCE:
            snprintf(options->source, sizeof(options->source), "%s", optarg);
            break;
        case IF_CHANGED:
            options->if_changed = true;
            break;
        case KIND:
            options->is_kernel = strcmp(optarg, "kernel") == 0;
            if (!options->is_kernel && strcmp(optarg, "root") != 0)
                return usage(optarg, "is no --kind: root or kernel");
            break;
        case 'h':
            options->help = true;
            break;
        default:
            return STATUS_USAGE;
        }
    }
    return 0;
}

/* --- output ---------------------------------------------------------------------------------- */

static json_t *to_json(const struct image_info *info)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "name", info->name,
                     "digest", info->digest, "raw_digest", info->raw_digest, "kind",
                     image_kind_name(info->kind), "architecture", info->architecture, "runtime",
                     info->runtime, "raw_bytes", (json_int_t)info->raw_bytes, "stored_bytes",
                     (json_int_t)info->stored_bytes, "created_s", (json_int_t)info->created_s,
                     "made_of", info->made_of);
}

static void print_info(const struct image_info *info)
{
    char made[32] = "";
    time_t created = (time_t)info->created_s;
    struct tm tm;

    if (gmtime_r(&created, &tm))
        strftime(made, sizeof(made), "%Y-%m-%d %H:%M:%S UTC", &tm);
    printf("name          %s\nkind          %s\narchitecture  %s\nruntime       %s\n",
           info->name[0] ? info->name : "-", image_kind_name(info->kind), info->architecture,
           info->runtime[0] ? info->runtime : "-");
    printf("size          %.1f MiB, %.1f MiB at rest\n", (double)info->raw_bytes / 1048576,
           (double)info->stored_bytes / 1048576);
    printf("digest        %s\nraw digest    %s\nmade          %s\nmade of       %s\n", info->digest,
           info->raw_digest, made, info->made_of[0] ? info->made_of : "-");
}

static int print_made(const struct context *context, const struct image_info *info, bool built,
                      struct error *err)
{
    if (context->options.json) {
        json_t *object = to_json(info);

        json_object_set_new(object, "built", json_boolean(built));
        json_object_set_new(object, "duration_ms",
                            json_integer((json_int_t)progress_elapsed_ms(&context->progress)));
        return cli_print_json(object, err);
    }
    if (!built)
        printf("%s is up to date (%.*s)\n", info->name, DIGEST_SHOWN, info->digest);
    else
        printf("%s  %.*s  %.1f MiB, %.1f MiB at rest, %.1f s\n", info->name, DIGEST_SHOWN,
               info->digest, (double)info->raw_bytes / 1048576,
               (double)info->stored_bytes / 1048576,
               (double)progress_elapsed_ms(&context->progress) / 1000);
    return 0;
}

/* --- the commands: arguments are what follows the options, their number has been checked -------
 */

static struct image_build build_of(const struct context *context)
{
    const struct options *options = &context->options;

    return (struct image_build){.store = context->store,
                                .store_directory = options->store,
                                .agent = options->agent,
                                .source = options->source,
                                .name = options->name,
                                .runtime = options->runtime,
                                .if_changed = options->if_changed,
                                .watch = &context->watch};
}

static int check_agent(const struct context *context, struct error *err)
{
    if (is_readable(context->options.agent))
        return 0;
    return error_set(err, errno, "guest agent '%s' (--agent names another)",
                     context->options.agent);
}

/* A path if it looks like one, else the name of a recipe of the source tree. */
static int find_recipe(const struct context *context, const char *argument, char path[PATH_MAX],
                       struct error *err)
{
    const char *end = strrchr(argument, '.');
    bool is_path = strchr(argument, '/') || (end && strcmp(end, ".yaml") == 0);

    if (is_path)
        snprintf(path, PATH_MAX, "%s", argument);
    else
        snprintf(path, PATH_MAX, "%.3900s/images/recipes/%.100s.yaml", context->options.source,
                 argument);
    return is_readable(path) ? 0 : error_set(err, errno, "recipe '%s'", path);
}

static int do_build(struct context *context, char **arguments, struct error *err)
{
    const struct image_build build = build_of(context);
    struct image_info info;
    char path[PATH_MAX];
    bool built;
    int r = find_recipe(context, arguments[0], path, err);

    if (r == 0)
        r = check_agent(context, err);
    if (r == 0)
        r = image_build_recipe(&build, path, &info, &built, err);
    progress_done(&context->progress, r == 0);
    return r < 0 ? r : print_made(context, &info, built, err);
}

static int do_add_kernel(struct context *context, char **arguments, struct error *err)
{
    struct image_info info = {.kind = IMAGE_KERNEL, .made_of = "kernel file"};

    if (snprintf(info.name, sizeof(info.name), "%s", context->options.name) >=
        (int)sizeof(info.name))
        return error_say(err, EINVAL, "a name has at most %d characters", IMAGE_NAME_MAX);
    int r = image_store_add(context->store, arguments[0], &info, err);
    progress_done(&context->progress, r == 0);
    return r < 0 ? r : print_made(context, &info, true, err);
}

static int do_import(struct context *context, char **arguments, struct error *err)
{
    const struct image_build build = build_of(context);
    struct image_info info;

    if (context->options.is_kernel)
        return do_add_kernel(context, arguments, err);
    int r = check_agent(context, err);
    if (r == 0)
        r = image_build_import(&build, arguments[0], &info, err);
    progress_done(&context->progress, r == 0);
    return r < 0 ? r : print_made(context, &info, true, err);
}

static int do_ls(struct context *context, char **arguments, struct error *err)
{
    AUTO_FREE struct image_info *list = NULL;
    size_t n = 0;
    int r = image_store_list(context->store, &list, &n, err);

    (void)arguments;
    if (r < 0)
        return r;
    if (context->options.json) {
        json_t *images = json_array();

        for (size_t i = 0; i < n; i++)
            json_array_append_new(images, to_json(&list[i]));
        return cli_print_json(json_pack("{s:o}", "images", images), err);
    }
    if (n == 0) {
        printf("no images in '%s'; `mayfly image build base` makes one\n", context->options.store);
        return 0;
    }
    printf("%-24s %-7s %-12s %9s %9s  %s\n", "NAME", "KIND", "RUNTIME", "MIB", "AT REST", "DIGEST");
    for (size_t i = 0; i < n; i++)
        printf("%-24s %-7s %-12s %9.1f %9.1f  %.*s\n", list[i].name, image_kind_name(list[i].kind),
               list[i].runtime[0] ? list[i].runtime : "-", (double)list[i].raw_bytes / 1048576,
               (double)list[i].stored_bytes / 1048576, DIGEST_SHOWN, list[i].digest);
    return 0;
}

static int do_inspect(struct context *context, char **arguments, struct error *err)
{
    struct image_info info;
    int r = image_store_find(context->store, arguments[0], &info, err);

    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(to_json(&info), err);
    print_info(&info);
    return 0;
}

static int verify_list(struct context *context, const struct image_info *list, size_t n,
                       struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = image_store_verify(context->store, &list[i], err);
    progress_done(&context->progress, r == 0);
    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(json_pack("{s:s, s:I}", "status", "ok", "images", (json_int_t)n),
                              err);
    for (size_t i = 0; i < n; i++)
        printf("%s: good (%.*s)\n", list[i].name[0] ? list[i].name : list[i].digest, DIGEST_SHOWN,
               list[i].digest);
    return 0;
}

static int do_verify(struct context *context, char **arguments, struct error *err)
{
    AUTO_FREE struct image_info *list = NULL;
    struct image_info one;
    size_t n = 1;
    int r = arguments[0] ? image_store_find(context->store, arguments[0], &one, err)
                         : image_store_list(context->store, &list, &n, err);

    return r < 0 ? r : verify_list(context, list ? list : &one, n, err);
}

static int do_rm(struct context *context, char **arguments, struct error *err)
{
    size_t n = 0;

    for (; arguments[n]; n++) {
        int r = image_store_remove(context->store, arguments[n], err);

        if (r < 0)
            return r;
    }
    if (context->options.json)
        return cli_print_json(json_pack("{s:s, s:I}", "status", "ok", "removed", (json_int_t)n),
                              err);
    return 0;
}

static const struct command {
    const char *name;
    int (*run)(struct context *context, char **arguments, struct error *err);
    int n_min, n_max;
    bool needs_name;
} commands[] = {
    {"build", do_build, 1, 1, false},          {"import", do_import, 1, 1, true},
    {"add-kernel", do_add_kernel, 1, 1, true}, {"ls", do_ls, 0, 0, false},
    {"inspect", do_inspect, 1, 1, false},      {"verify", do_verify, 0, 1, false},
    {"rm", do_rm, 1, INT_MAX, false},
};

static int run_command(const struct command *command, struct context *context, char **arguments)
{
    struct error err = {0};
    int r = image_store_open(context->options.store, &context->store, &err);

    handle_signals();
    if (r == 0) {
        image_store_on_progress(context->store, progress_report, &context->progress);
        image_store_set_cancel(context->store, &cancelled);
        r = command->run(context, arguments, &err);
    }
    image_store_close(context->store);
    if (r == 0)
        return STATUS_OK;
    fprintf(stderr, "mayfly image %s: %s\n", command->name, err.text);
    if (context->options.json)
        cli_print_json(json_pack("{s:s, s:{s:s}}", "status", "error", "error", "message", err.text),
                       &err);
    return STATUS_FAILED;
}

int cmd_image(int argc, char **argv)
{
    struct context context = {.watch = {.progress = progress_report,
                                        .opaque = &context.progress,
                                        .cancelled = &cancelled}};
    int status = parse_options(argc, argv, &context.options);

    if (status != 0)
        return status;
    if (context.options.help) {
        fputs(help, stdout);
        return STATUS_OK;
    }
    progress_init(&context.progress);
    int n = argc - optind - 1;
    const char *name = n >= 0 ? argv[optind] : NULL;
    if (!name)
        return usage(NULL, "say what to do: build, import, add-kernel, ls, inspect, verify or rm");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) != 0)
            continue;
        if (n < commands[i].n_min || n > commands[i].n_max)
            return usage(name, "has too few or too many arguments");
        if (commands[i].needs_name && !context.options.name)
            return usage(name, "needs --name");
        return run_command(&commands[i], &context, argv + optind + 1);
    }
    return usage(name, "is not a command");
}
