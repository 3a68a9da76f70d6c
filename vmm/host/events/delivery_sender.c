/*
 * The sender: see delivery_sender.h. One thread claims, a pool sends; a client of libcurl for each
 * of the pool's threads that posts.
 */
#include "delivery_sender.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/work_pool.h"
#include "claim_loop.h"
#include "common/clock.h"
#include "common/fd.h"
#include "delivery_http.h"
#include "delivery_target.h"
#include "host/json_check.h"
#include "spool.h"
#include "tenant_share.h"

enum {
    THREADS = 16,
    IDLE_CLIENTS = 2,  /* each may hold a megabyte of certificates */
    LEASE_MS = 120000, /* longer than any post may take */
    RETRY_MS = 1000,   /* after the database failed */
    LINES_A_MINUTE = 60,
    MINUTE_US = 60000000,
};

struct delivery_sender {
    struct delivery_sender_options options;
    struct network *allowed; /* owned, as all pointers below */
    char *ca_file;
    struct spool *spool;
    struct work_pool *pool;
    struct claim_loop *loop;
    atomic_bool is_ending;
    pthread_mutex_t lock; /* of all below */
    struct tenant_share *share;
    struct delivery_http *idle[IDLE_CLIENTS]; /* that nobody uses */
    size_t n_idle;
    uint64_t minute_us; /* when this minute of the log began */
    unsigned n_lines, n_unsaid;
};

struct job {
    struct delivery_sender *sender;
    struct delivery *delivery; /* owned */
};

/* --- the log --------------------------------------------------------------------------------- */

/* A tenant decides how many of its deliveries fail: it must not decide how long the log gets. */
void delivery_sender_say(struct delivery_sender *sender, const char *request_id, const char *text)
{
    uint64_t now_us = clock_now_us();
    unsigned n_unsaid = 0;
    char more[80];
    bool is_said;

    pthread_mutex_lock(&sender->lock);
    if (now_us - sender->minute_us >= MINUTE_US) {
        n_unsaid = sender->n_unsaid;
        sender->minute_us = now_us;
        sender->n_lines = sender->n_unsaid = 0;
    }
    is_said = sender->n_lines < LINES_A_MINUTE;
    sender->n_lines += is_said;
    sender->n_unsaid += !is_said;
    pthread_mutex_unlock(&sender->lock);
    if (n_unsaid > 0) {
        snprintf(more, sizeof(more), "%u more failures of deliveries were not said", n_unsaid);
        sender->options.failed("", more);
    }
    if (is_said)
        sender->options.failed(request_id, text);
}

static const char *kind_text(enum delivery_kind kind)
{
    return kind == DELIVERY_ON_SUCCESS   ? "on-success destination"
           : kind == DELIVERY_ON_FAILURE ? "on-failure destination"
                                         : "dead-letter queue";
}

static void say_dropped(struct delivery_sender *sender, const struct delivery *delivery,
                        const struct error *why)
{
    struct error said = *why;

    error_wrap(&said, "tenant '%s': the record for the %s is dropped after %u attempt%s",
               delivery->tenant, kind_text(delivery->kind), delivery->attempt,
               delivery->attempt == 1 ? "" : "s");
    delivery_sender_say(sender, delivery->request_id, said.text);
}

/* --- to a file ------------------------------------------------------------------------------- */

/* A dead letter's attributes stand beside it, as a message of SQS has them. The names and numbers
 * are ours, the message is printable ASCII. */
static int spool_dead_letter(struct spool *spool, const struct delivery *delivery,
                             struct error *err)
{
    AUTO_FREE char *line = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&line, &len);
    json_t *attributes;
    int failed;

    if (!to)
        return error_set(err, errno, "write a dead letter");
    attributes = json_pack("{s:s, s:s, s:s}", "RequestID", delivery->request_id, "ErrorCode",
                           delivery->error_code, "ErrorMessage", delivery->error_message);
    fputs("{\"MessageAttributes\":", to);
    failed = !attributes || json_dumpf(attributes, to, JSON_COMPACT) < 0;
    json_decref(attributes);
    fputs(",\"Body\":", to);
    fwrite(delivery->body, 1, delivery->body_len_bytes, to);
    fputs("}", to);
    failed |= ferror(to);
    if (fclose(to) != 0 || failed)
        return error_set(err, ENOMEM, "write a dead letter");
    return spool_append(spool, delivery->tenant, delivery_target_spool(delivery->target), line, len,
                        err);
}

static int send_to_file(struct delivery_sender *sender, const struct delivery *delivery,
                        struct error *err)
{
    /* It was checked when it came; a line that is none would break its file for every reader. */
    if (json_check(delivery->body, delivery->body_len_bytes, err) < 0)
        return -EINVAL;
    if (delivery->kind == DELIVERY_DEAD_LETTER)
        return spool_dead_letter(sender->spool, delivery, err);
    return spool_append(sender->spool, delivery->tenant, delivery_target_spool(delivery->target),
                        delivery->body, delivery->body_len_bytes, err);
}

/* --- to an endpoint -------------------------------------------------------------------------- */

static int take_client(struct delivery_sender *sender, struct delivery_http **ret_client,
                       struct error *err)
{
    const struct delivery_http_options options = {.allowed = sender->allowed,
                                                  .n_allowed = sender->options.n_allowed,
                                                  .ca_file = sender->ca_file,
                                                  .timeout_ms = sender->options.timeout_ms,
                                                  .is_ending = &sender->is_ending};
    struct delivery_http *client = NULL;

    pthread_mutex_lock(&sender->lock);
    if (sender->n_idle > 0)
        client = sender->idle[--sender->n_idle];
    pthread_mutex_unlock(&sender->lock);
    if (!client)
        return delivery_http_new(&options, ret_client, err);
    *ret_client = client;
    return 0;
}

static void give_client(struct delivery_sender *sender, struct delivery_http *client)
{
    pthread_mutex_lock(&sender->lock);
    if (sender->n_idle < IDLE_CLIENTS) {
        sender->idle[sender->n_idle++] = client;
        client = NULL;
    }
    pthread_mutex_unlock(&sender->lock);
    delivery_http_free(client);
}

static int send_to_endpoint(struct delivery_sender *sender, const struct delivery *delivery,
                            struct error *err)
{
    const struct delivery_header headers[] = {{"RequestID", delivery->request_id},
                                              {"ErrorCode", delivery->error_code},
                                              {"ErrorMessage", delivery->error_message}};
    struct delivery_http *client;
    int r = take_client(sender, &client, err);

    if (r < 0)
        return r;
    r = delivery_http_post(client, delivery->target, headers,
                           delivery->kind == DELIVERY_DEAD_LETTER ? 3 : 0, delivery->body,
                           delivery->body_len_bytes, err);
    give_client(sender, client);
    return r;
}

/* --- one delivery ---------------------------------------------------------------------------- */

static int send_out(struct delivery_sender *sender, const struct delivery *delivery,
                    struct error *err)
{
    enum delivery_target_kind kind;
    int r = delivery_target_check(delivery->target, &kind, err);

    if (r < 0)
        return r;
    return kind == TARGET_FILE ? send_to_file(sender, delivery, err)
                               : send_to_endpoint(sender, delivery, err);
}

static void handle(struct delivery_sender *sender, const struct delivery *delivery)
{
    struct error err = {0}, finish_err;
    bool dropped = false;
    int r = send_out(sender, delivery, &err);

    if (r == -ECANCELED)
        return; /* its lease is taken back at the next start */
    enum delivery_outcome outcome = r == 0                         ? DELIVERY_DONE
                                    : r == -EACCES || r == -EINVAL ? DELIVERY_REFUSED
                                                                   : DELIVERY_FAILED;
    int finished =
        event_queue_delivered(sender->options.queue, delivery, outcome, &dropped, &finish_err);
    if (finished < 0 && finished != -ESTALE) /* it is sent again when its lease is over */
        delivery_sender_say(sender, delivery->request_id, finish_err.text);
    if (finished == 0 && dropped)
        say_dropped(sender, delivery, &err);
}

static void give_slot(struct delivery_sender *sender, const char *tenant)
{
    pthread_mutex_lock(&sender->lock);
    tenant_share_give(sender->share, tenant);
    pthread_mutex_unlock(&sender->lock);
}

static void run_job(void *opaque)
{
    struct job *job = opaque;
    struct delivery_sender *sender = job->sender;

    handle(sender, job->delivery);
    give_slot(sender, job->delivery->tenant);
    delivery_free(job->delivery);
    free(job);
    claim_loop_wake(sender->loop);
}

/* --- claiming -------------------------------------------------------------------------------- */

static bool has_room(void *opaque, const char *tenant, const char *function, size_t n_own,
                     size_t n_claimed)
{
    struct delivery_sender *sender = opaque;

    (void)function;
    pthread_mutex_lock(&sender->lock);
    bool has = tenant_share_allows(sender->share, tenant, n_own, n_claimed);
    pthread_mutex_unlock(&sender->lock);
    return has;
}

static void start(struct delivery_sender *sender, struct delivery *delivery)
{
    struct job *job = malloc(sizeof(*job));

    pthread_mutex_lock(&sender->lock);
    tenant_share_take(sender->share, delivery->tenant);
    pthread_mutex_unlock(&sender->lock);
    if (job) {
        *job = (struct job){sender, delivery};
        if (work_pool_submit(sender->pool, run_job, job) == 0)
            return;
    }
    free(job);
    give_slot(sender, delivery->tenant);
    delivery_free(delivery); /* claimed for nothing: back after its lease */
}

static uint64_t turn(void *opaque)
{
    struct delivery_sender *sender = opaque;
    const struct event_room room = {has_room, sender};
    struct delivery *deliveries[EVENT_CLAIM_MAX];
    uint64_t wait_ms = UINT64_MAX;
    struct error err;
    size_t n = 0;

    pthread_mutex_lock(&sender->lock);
    size_t left = tenant_share_left(sender->share);
    pthread_mutex_unlock(&sender->lock);
    if (left == 0)
        return UINT64_MAX; /* who ends wakes us */
    if (event_queue_claim_deliveries(sender->options.queue,
                                     left < EVENT_CLAIM_MAX ? left : EVENT_CLAIM_MAX, LEASE_MS,
                                     &room, deliveries, &n, &wait_ms, &err) < 0) {
        delivery_sender_say(sender, "", err.text);
        return RETRY_MS;
    }
    for (size_t i = 0; i < n; i++)
        start(sender, deliveries[i]);
    return wait_ms;
}

/* --- life ------------------------------------------------------------------------------------ */

static int copy_options(struct delivery_sender *sender, const struct delivery_sender_options *from,
                        struct error *err)
{
    size_t threads = from->threads ? from->threads : THREADS;

    sender->options = *from;
    sender->options.threads = (unsigned)threads;
    sender->allowed = calloc(from->n_allowed + 1, sizeof(*sender->allowed));
    if (from->ca_file)
        sender->ca_file = strdup(from->ca_file);
    if (!sender->allowed || (from->ca_file && !sender->ca_file))
        return error_set(err, ENOMEM, "make the sender of deliveries");
    if (from->n_allowed > 0)
        memcpy(sender->allowed, from->allowed, from->n_allowed * sizeof(*sender->allowed));
    return 0;
}

int delivery_sender_new(const struct delivery_sender_options *options,
                        struct delivery_sender **ret_sender, struct error *err)
{
    struct delivery_sender *sender = calloc(1, sizeof(*sender));
    unsigned threads;
    int r;

    if (!sender)
        return error_set(err, ENOMEM, "make the sender of deliveries");
    pthread_mutex_init(&sender->lock, NULL);
    r = copy_options(sender, options, err);
    threads = sender->options.threads;
    if (r == 0)
        r = spool_open(options->spool, options->spool_tenant_bytes, &sender->spool, err);
    if (r == 0)
        r = tenant_share_new(threads, &sender->share, err);
    if (r == 0)
        r = work_pool_new(threads, threads, &sender->pool, err);
    if (r == 0)
        r = claim_loop_new(turn, sender, &sender->loop, err);
    if (r == 0)
        r = claim_loop_start(sender->loop, err);
    if (r < 0) {
        delivery_sender_free(sender);
        return r;
    }
    *ret_sender = sender;
    return 0;
}

void delivery_sender_wake(struct delivery_sender *sender)
{
    claim_loop_wake(sender->loop);
}

void delivery_sender_free(struct delivery_sender *sender)
{
    if (!sender)
        return;
    atomic_store(&sender->is_ending, true);
    claim_loop_stop(sender->loop);
    work_pool_free(sender->pool); /* its jobs wake the loop: that goes last */
    claim_loop_free(sender->loop);
    for (size_t i = 0; i < sender->n_idle; i++)
        delivery_http_free(sender->idle[i]);
    tenant_share_free(sender->share);
    spool_close(sender->spool);
    pthread_mutex_destroy(&sender->lock);
    free(sender->allowed);
    free(sender->ca_file);
    free(sender);
}
