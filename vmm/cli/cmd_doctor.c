/* `mayfly doctor`: runs the checks, prints them as a table or as JSON. Process: the CLI. */
#include <assert.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"
#include "common/bytes.h"
#include "doctor.h"

enum { ADVICE_INDENT = 24, WIDTH = 98 };

static const char help[] =
    "mayfly doctor - what this host offers, and what to do about what it lacks\n"
    "\n"
    "Usage: mayfly doctor [--json] [--state DIR]\n"
    "\n"
    "  --json         one JSON object on stdout: status, and a list of checks\n"
    "  --state DIR    where images are kept (default $MAYFLY_STATE, /var/lib/mayfly)\n"
    "\n"
    "Exit status: 0 microVMs can run here; 2 wrong usage; 3 something they need is missing.\n";

static const struct verdict_look {
    const char *words;
    const char *colour;
} looks[] = {
    [DOCTOR_GOOD] = {"good", "\033[32m"},
    [DOCTOR_SLOWER] = {"works, slower", "\033[33m"},
    [DOCTOR_MISSING] = {"missing", "\033[31m"},
};

void doctor_add(struct doctor *doctor, const char *name, enum doctor_verdict verdict,
                const char *advice, const char *format, ...)
{
    va_list arguments;

    assert(doctor->n < DOCTOR_MAX_CHECKS);
    struct doctor_check *check = &doctor->checks[doctor->n++];
    *check = (struct doctor_check){.name = name, .verdict = verdict, .advice = advice};
    va_start(arguments, format);
    vsnprintf(check->detail, sizeof(check->detail), format, arguments);
    va_end(arguments);
}

void doctor_need(struct doctor *doctor)
{
    doctor->checks[doctor->n - 1].needed = true;
}

static bool can_run(const struct doctor *doctor)
{
    for (size_t i = 0; i < doctor->n; i++)
        if (doctor->checks[i].needed && doctor->checks[i].verdict == DOCTOR_MISSING)
            return false;
    return true;
}

/* Prints @text in lines of WIDTH - ADVICE_INDENT characters, broken at blanks. */
static void print_wrapped(const char *text)
{
    const size_t room = WIDTH - ADVICE_INDENT - 2;
    const char *lead = "> ";

    while (*text) {
        size_t len = strlen(text);

        if (len > room) {
            for (len = room; len > 0 && text[len] != ' ';)
                len--;
            if (len == 0)
                len = room;
        }
        printf("%*s%s%.*s\n", ADVICE_INDENT, "", lead, (int)len, text);
        text += len + strspn(text + len, " ");
        lead = "  ";
    }
}

static void print_table(const struct doctor *doctor)
{
    bool colour = cli_colour(stdout);

    for (size_t i = 0; i < doctor->n; i++) {
        const struct doctor_check *check = &doctor->checks[i];
        const struct verdict_look *look = &looks[check->verdict];

        printf("%-23s %s%-14s%s %.59s\n", check->name, colour ? look->colour : "", look->words,
               colour ? "\033[0m" : "", check->detail);
        print_wrapped(check->advice);
    }
    puts(can_run(doctor) ? "\nMicroVMs can run on this host."
                         : "\nMicroVMs cannot run on this host: see what is missing above.");
}

static json_t *to_json(const struct doctor *doctor)
{
    json_t *checks = json_array();

    for (size_t i = 0; i < doctor->n; i++) {
        const struct doctor_check *check = &doctor->checks[i];

        json_array_append_new(checks,
                              json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", check->name, "verdict",
                                        looks[check->verdict].words, "detail", check->detail,
                                        "advice", check->advice, "needed", check->needed));
    }
    return json_pack("{s:s, s:o}", "status", can_run(doctor) ? "ok" : "host-error", "checks",
                     checks);
}

static int print_json(const struct doctor *doctor)
{
    json_t *object = to_json(doctor);
    int r = object ? json_dumpf(object, stdout, JSON_INDENT(1)) : -1;

    json_decref(object);
    putchar('\n');
    return r;
}

int cmd_doctor(int argc, char **argv)
{
    static const struct option known[] = {{"json", no_argument, NULL, 'j'},
                                          {"state", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct doctor doctor = {0};
    bool json = false;
    int option;

    optind = 0;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (option == 'j') {
            json = true;
        } else if (option == 's') {
            doctor.state = optarg;
        } else if (option == 'h') {
            fputs(help, stdout);
            return CLI_OK;
        } else {
            return CLI_USAGE;
        }
    }
    if (optind < argc)
        return cli_usage("doctor", "it takes no '%s'", argv[optind]);
    doctor.state = cli_state_directory(doctor.state);
    doctor_check_kvm(&doctor);
    doctor_check_host(&doctor);
    doctor_check_jail(&doctor);
    doctor_check_software(&doctor);
    doctor_check_images(&doctor);
    if (json)
        print_json(&doctor);
    else
        print_table(&doctor);
    if (fflush(stdout) != 0)
        return CLI_HOST_ERROR;
    return can_run(&doctor) ? CLI_OK : CLI_HOST_ERROR;
}
