/*
 * The queue under kill -9: a child enqueues, claims and finishes as fast as it can; the parent
 * kills it at a random moment, looks at what is on disk, and starts the next.
 *
 * The child says what it knows over a pipe, a byte record each, before and after each call, so that
 * the parent knows what was promised: "accepted" is written after enqueue returned, "finishing"
 * before finish is called, "finished" after it returned.
 *
 * Rounds: MAYFLY_KILLS, 8 if it is not set.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "host/store/database.h"
#include "host/events/event_queue.h"
#include "registry_fixture.h"

enum {
    KILLS_DEFAULT = 8,
    EVENTS_MAX = 1 << 20,     /* of all rounds: the table that the parent keeps */
    KILL_AFTER_REPORTS = 150, /* at most: not after a time, as machines may be slow */
    KILL_AFTER_US = 3000,     /* and so much later at most: between any two system calls */
    BATCH = 8,
};

enum { STARTED = 's', ACCEPTED = 'a', RUN = 'r', FINISHING = 'g', FINISHED = 'f', FAILED = 'X' };

struct report {
    char what;
    uint32_t number; /* of the event: its payload */
};

/* What the parent knows of each event. */
struct known {
    bool is_accepted, is_finishing, is_finished;
    uint8_t runs;
};

static void say(int pipe_fd, char what, uint32_t number)
{
    struct report report;

    memset(&report, 0, sizeof(report));
    report.what = what;
    report.number = number;
    if (write(pipe_fd, &report, sizeof(report)) != (ssize_t)sizeof(report))
        _exit(2);
}

/* --- the child -----------------------------------------------------------------------------------
 */

static void child_enqueue(struct event_queue *queue, int pipe_fd, uint32_t number)
{
    char id[REQUEST_ID_BYTES], payload[16];
    struct error err = {0};
    struct event_submission event = {
        .key = fixture_key("f", NULL), .request_id = id, .payload = payload};

    event.payload_len_bytes = (size_t)snprintf(payload, sizeof(payload), "%u", number);
    if (identity_request(id, &err) != 0 || event_queue_enqueue(queue, &event, &err) != 0) {
        say(pipe_fd, FAILED, number);
        _exit(3);
    }
    say(pipe_fd, ACCEPTED, number);
}

static void child_work(struct event_queue *queue, int pipe_fd)
{
    struct event_result result = {.outcome = EVENT_SUCCEEDED, .status = 200};
    struct event *events[BATCH];
    struct error err = {0};
    size_t n = 0;

    if (event_queue_claim(queue, BATCH, 600000, NULL, events, &n, NULL, &err) != 0)
        _exit(4);
    /* All of them run at once, as with a worker each. */
    for (size_t i = 0; i < n; i++)
        say(pipe_fd, RUN, (uint32_t)strtoul(events[i]->payload, NULL, 10));
    for (size_t i = 0; i < n; i++) {
        uint32_t number = (uint32_t)strtoul(events[i]->payload, NULL, 10);

        say(pipe_fd, FINISHING, number);
        if (event_queue_finish(queue, events[i], &result, NULL, &err) != 0) {
            say(pipe_fd, FAILED, number);
            _exit(5);
        }
        say(pipe_fd, FINISHED, number);
        event_free(events[i]);
    }
}

static void child_main(const char *state, int pipe_fd, uint32_t next)
{
    struct registry_options options = {.state = state};
    struct event_queue_options queue_options = {.sole = true};
    struct event_queue *queue = NULL;
    struct registry *registry = NULL;
    struct error err = {0};

    if (registry_open(&options, &registry, &err) != 0 ||
        event_queue_open(registry_database(registry), &queue_options, &queue, &err) != 0) {
        fprintf(stderr, "child: %s\n", err.text);
        say(pipe_fd, FAILED, 0);
        _exit(6);
    }
    say(pipe_fd, STARTED, 0);
    for (;;) {
        for (int i = 0; i < BATCH; i++)
            child_enqueue(queue, pipe_fd, next++);
        child_work(queue, pipe_fd);
    }
}

/* --- the parent ----------------------------------------------------------------------------------
 */

struct figures {
    uint32_t accepted, finished, again, most_runs, kills;
};

static void take_report(const struct report *report, struct known *known, uint32_t *highest)
{
    struct known *of = &known[report->number];

    assert_int_not_equal(report->what, FAILED);
    assert_true(report->number < EVENTS_MAX);
    if (report->what != STARTED && report->number >= *highest)
        *highest = report->number + 1;
    of->is_accepted |= report->what == ACCEPTED;
    of->is_finishing |= report->what == FINISHING;
    of->is_finished |= report->what == FINISHED;
    if (report->what == RUN) {
        assert_false(of->is_finished); /* what was reported finished never runs again */
        of->runs++;
    }
}

/* Up to @max of what the child says; all of it once the child is dead. */
static void read_reports(int pipe_fd, unsigned max, struct known *known, uint32_t *highest)
{
    struct report report;

    while (max-- > 0 && fd_read_all(pipe_fd, &report, sizeof(report)) == 0)
        take_report(&report, known, highest);
}

static void one_round(const char *state, struct known *known, uint32_t *next, unsigned *seed)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        child_main(state, ends[1], *next);
    }
    assert_true(pid > 0);
    close(ends[1]);
    read_reports(ends[0], 1 + (unsigned)rand_r(seed) % KILL_AFTER_REPORTS, known, next);
    usleep((unsigned)rand_r(seed) % KILL_AFTER_US);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    read_reports(ends[0], UINT_MAX, known, next);
    *next += 2; /* one may be on disk that was not reported */
    close(ends[0]);
}

/* Which events are on disk, against what was promised. */
static void check_disk(struct registry_fixture *f, const struct known *known, uint32_t next)
{
    bool *there = calloc(next, sizeof(*there));
    sqlite3_stmt *statement = NULL;
    sqlite3 *handle = NULL;

    assert_non_null(there);
    assert_int_equal(sqlite3_open(fixture_path(f, "mayfly.db"), &handle), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle,
                                        "SELECT CAST(CAST(payload AS TEXT) AS INTEGER)"
                                        " FROM payloads JOIN events ON id = event_id",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    while (sqlite3_step(statement) == SQLITE_ROW) {
        int64_t number = sqlite3_column_int64(statement, 0);

        assert_in_range(number, 0, next - 1);
        there[number] = true;
    }
    sqlite3_finalize(statement);
    sqlite3_close(handle);
    for (uint32_t i = 0; i < next; i++) {
        if (known[i].is_accepted && !known[i].is_finishing && !there[i])
            fail_msg("event %u was accepted and is lost", i);
        if (known[i].is_finished && there[i])
            fail_msg("event %u was finished and is there again", i);
    }
    free(there);
}

static void count(const struct known *known, uint32_t next, struct figures *figures)
{
    for (uint32_t i = 0; i < next; i++) {
        figures->accepted += known[i].is_accepted;
        figures->finished += known[i].is_finished;
        figures->again += known[i].runs > 1 ? known[i].runs - 1u : 0;
        if (known[i].runs > figures->most_runs)
            figures->most_runs = known[i].runs;
    }
}

static void test_nothing_accepted_is_lost(void **state)
{
    const char *asked = getenv("MAYFLY_KILLS");
    long kills = asked ? strtol(asked, NULL, 10) : KILLS_DEFAULT;
    struct known *known = calloc(EVENTS_MAX, sizeof(*known));
    struct registry_fixture *f = *state;
    struct figures figures = {0};
    unsigned seed = (unsigned)time(NULL);
    uint32_t next = 0;

    assert_non_null(known);
    assert_true(kills > 0);
    fixture_create(f, "f", "x");
    fixture_close_registry(f); /* connections do not cross fork() */
    for (long i = 0; i < kills && next < EVENTS_MAX / 2; i++) {
        one_round(f->state, known, &next, &seed);
        check_disk(f, known, next);
        figures.kills++;
    }
    assert_int_equal(figures.kills, kills);
    count(known, next, &figures);
    assert_true(figures.accepted > 0 && figures.finished > 0);
    /* Each kill may run again what was claimed then and not finished: a batch, no more. */
    assert_true(figures.again <= (uint32_t)kills * BATCH);
    print_message("seed %u: %u kills, %u accepted, %u finished, 0 lost, %u run again (at most %u "
                  "allowed), one at most %u times\n",
                  seed, figures.kills, figures.accepted, figures.finished, figures.again,
                  (unsigned)kills * BATCH, figures.most_runs);
    fixture_open_again(f);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM pragma_integrity_check"
                                       " WHERE integrity_check = 'ok'"),
                     1);
    free(known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_accepted_is_lost, fixture_set_up,
                                        fixture_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
