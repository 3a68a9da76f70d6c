/*
 * The host's end of a monitor's control socket. Process: the host's; everything it receives is
 * untrusted. Invariant: once `end` is set it never changes, and the client's fd stays readable.
 */
#include "monitor_client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "monitor_spawn.h"

enum {
    DATAGRAM_MAX_BYTES = 64 * 1024,
    REQUEST_MAX_BYTES = 64 * 1024,
    POLL_MAX_DATAGRAMS = 64, /* a flood does not keep the host busy */
    PIPE_READS = 16,         /* of 4 KiB: what fits into a pipe */
    STOP_WAIT_MS = 1000,
    EXIT_WAIT_MS = 2000,
    DEATH_WAIT_MS = 1000, /* from the end of the socket to the end of the process */
};

struct monitor_client {
    struct monitor_process process; /* owned */
    bool reaped;
    int epoll; /* owned: the control socket and `ended` */
    int ended; /* owned: eventfd, written once when the VM has ended */
    enum vm_end end;
    char end_text[320];
    char last_line[256]; /* of the monitor's stderr, cleaned */
    char partial[256];   /* the line being received */
    size_t partial_bytes;
};

/* @detail: cleaned, may be empty. */
static void set_end(struct monitor_client *client, enum vm_end end, const char *what,
                    const char *detail)
{
    uint64_t one = 1;

    if (client->end != VM_ALIVE)
        return;
    client->end = end;
    snprintf(client->end_text, sizeof(client->end_text), "%.110s%s%.200s", what,
             detail[0] ? ": " : "", detail);
    if (write(client->ended, &one, sizeof(one)) < 0)
        return; /* an eventfd at 0 always takes a 1 */
}

/* Keeps the last whole line of the monitor's stderr. One that never stops writing is not read for
 * ever: a full pipe at most, then its turn is over. */
static void drain_output(struct monitor_client *client)
{
    char bytes[4096];
    ssize_t n;

    for (int reads = 0; reads < PIPE_READS; reads++) {
        n = read(client->process.output, bytes, sizeof(bytes));
        if (n <= 0)
            return;
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == '\n') {
                if (client->partial_bytes > 0)
                    text_clean(client->last_line, sizeof(client->last_line), client->partial,
                               client->partial_bytes);
                client->partial_bytes = 0;
            } else if (client->partial_bytes < sizeof(client->partial)) {
                client->partial[client->partial_bytes++] = bytes[i];
            }
        }
    }
}

/* Says how the process ended, and with which last words. */
static void describe_death(struct monitor_client *client, int status)
{
    char how[110];

    drain_output(client);
    if (client->last_line[0] == '\0')
        text_clean(client->last_line, sizeof(client->last_line), client->partial,
                   client->partial_bytes);
    if (WIFSIGNALED(status))
        snprintf(how, sizeof(how), "the monitor process was killed by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, sizeof(how), "the monitor process exited with status %d",
                 WEXITSTATUS(status));
    set_end(client, VM_END_KILLED, how, client->last_line);
}

/* The control socket ended: the process is dead or about to be. */
static void take_death(struct monitor_client *client)
{
    int status;

    if (client->reaped)
        return;
    if (monitor_reap(&client->process, DEATH_WAIT_MS, &status) < 0) {
        kill(client->process.pid, SIGKILL);
        if (monitor_reap(&client->process, -1, &status) < 0)
            return;
    }
    client->reaped = true;
    describe_death(client, status);
}

static enum vm_end end_of_event(Mayfly__Monitor__Event__Kind kind)
{
    switch (kind) {
    case MAYFLY__MONITOR__EVENT__KIND__SHUTDOWN:
        return VM_END_SHUTDOWN;
    case MAYFLY__MONITOR__EVENT__KIND__RESET:
        return VM_END_RESET;
    case MAYFLY__MONITOR__EVENT__KIND__PANIC:
        return VM_END_PANIC;
    case MAYFLY__MONITOR__EVENT__KIND__TRIPLE_FAULT:
        return VM_END_TRIPLE_FAULT;
    case MAYFLY__MONITOR__EVENT__KIND__INTERNAL_ERROR:
    default:
        return VM_END_INTERNAL;
    }
}

static const char *end_words(enum vm_end end)
{
    switch (end) {
    case VM_ALIVE:
        return "the VM is alive";
    case VM_END_SHUTDOWN:
        return "the guest powered off";
    case VM_END_PANIC:
        return "the guest kernel panicked";
    case VM_END_TRIPLE_FAULT:
        return "the guest CPU met a triple fault";
    case VM_END_RESET:
        return "the guest asked for a reboot";
    case VM_END_INTERNAL:
        return "the hypervisor could not go on";
    case VM_END_KILLED:
        return "the monitor died";
    }
    return "the VM ended";
}

static void take_event(struct monitor_client *client, const Mayfly__Monitor__Event *event)
{
    enum vm_end end = end_of_event(event->kind);
    char cleaned[208];

    text_clean(cleaned, sizeof(cleaned), event->text, strlen(event->text));
    set_end(client, end, end_words(end), cleaned);
}

static void distrust(struct monitor_client *client, const char *why)
{
    kill(client->process.pid, SIGKILL);
    set_end(client, VM_END_INTERNAL, why, "");
}

/*
 * Receives one datagram, which must be there. Events are taken in; a Reply is given to the caller
 * in *ret_reply (owned), or dropped when @ret_reply is NULL: nobody had asked.
 */
static void receive(struct monitor_client *client, Mayfly__Monitor__Reply **ret_reply)
{
    AUTO_FREE uint8_t *data = malloc(DATAGRAM_MAX_BYTES);
    size_t len, n_fds;

    if (!data) {
        distrust(client, "out of memory for the monitor's answer");
        return;
    }
    int r =
        fd_recv_message(client->process.control, data, DATAGRAM_MAX_BYTES, &len, NULL, 0, &n_fds);
    if (r == -ECONNRESET) {
        take_death(client);
        return;
    }
    Mayfly__Monitor__Message *message =
        r < 0 ? NULL : mayfly__monitor__message__unpack(NULL, len, data);
    if (!message) {
        distrust(client, "the monitor sent what is no message of the control protocol");
        return;
    }
    if (message->body_case == MAYFLY__MONITOR__MESSAGE__BODY_EVENT) {
        take_event(client, message->event);
    } else if (message->body_case == MAYFLY__MONITOR__MESSAGE__BODY_REPLY && ret_reply) {
        *ret_reply = message->reply;
        message->reply = NULL;
        message->body_case = MAYFLY__MONITOR__MESSAGE__BODY__NOT_SET;
    }
    mayfly__monitor__message__free_unpacked(message, NULL);
}

/* Waits until a datagram (or the end of the socket) is there. Returns 0 or -ETIMEDOUT. */
static int wait_readable(struct monitor_client *client, uint64_t deadline_ns)
{
    struct pollfd fds[] = {{.fd = client->process.control, .events = POLLIN},
                           {.fd = client->process.output, .events = POLLIN}};

    for (;;) {
        uint64_t now = clock_now_ns();

        if (now >= deadline_ns)
            return -ETIMEDOUT;
        int n = poll(fds, 2, (int)((deadline_ns - now) / 1000000u + 1));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n <= 0)
            continue;
        if (fds[1].revents & POLLIN)
            drain_output(client);
        else if (fds[1].revents)
            fds[1].fd = -1; /* stderr was closed: the socket tells the rest */
        if (fds[0].revents)
            return 0;
    }
}

void monitor_client_poll(struct monitor_client *client)
{
    struct pollfd control = {.fd = client->process.control, .events = POLLIN};

    drain_output(client);
    for (int i = 0; i < POLL_MAX_DATAGRAMS && client->end == VM_ALIVE; i++) {
        if (poll(&control, 1, 0) <= 0)
            return;
        receive(client, NULL);
    }
}

enum vm_end monitor_client_end(const struct monitor_client *client, const char **ret_text)
{
    if (ret_text)
        *ret_text = client->end == VM_ALIVE ? "" : client->end_text;
    return client->end;
}

int monitor_client_say_end(const struct monitor_client *client, struct error *err)
{
    return error_say(err, ECONNRESET, "%s", client->end_text);
}

int monitor_client_fd(const struct monitor_client *client)
{
    return client->epoll;
}

pid_t monitor_client_pid(const struct monitor_client *client)
{
    return client->process.pid;
}

/* What the monitor answered with, if it was an error. */
static int reply_error(const Mayfly__Monitor__Reply *reply, struct error *err)
{
    char text[400];
    int code = reply->error_code < 4096 ? (int)reply->error_code : EIO;

    if (code == 0)
        return 0;
    text_clean(text, sizeof(text), reply->error_text, strlen(reply->error_text));
    if (text[0] == '\0')
        return error_set(err, code, "the monitor refused");
    return error_say(err, code, "%s", text);
}

static int send_request(struct monitor_client *client, const Mayfly__Monitor__Request *request,
                        const int *fds, size_t n_fds)
{
    size_t len = mayfly__monitor__request__get_packed_size(request);

    if (len > REQUEST_MAX_BYTES)
        return -EMSGSIZE;
    AUTO_FREE uint8_t *data = malloc(len ? len : 1);
    if (!data)
        return -ENOMEM;
    mayfly__monitor__request__pack(request, data);
    return fd_send_message(client->process.control, data, len, fds, n_fds);
}

int monitor_client_request(struct monitor_client *client, const Mayfly__Monitor__Request *request,
                           const int *fds, size_t n_fds, uint64_t timeout_ms,
                           Mayfly__Monitor__Reply **ret_reply, struct error *err)
{
    uint64_t deadline_ns = clock_now_ns() + timeout_ms * 1000000u;
    Mayfly__Monitor__Reply *reply = NULL;

    monitor_client_poll(client);
    if (client->end != VM_ALIVE)
        return monitor_client_say_end(client, err);
    int r = send_request(client, request, fds, n_fds);
    if (r == -EPIPE || r == -ECONNRESET) {
        monitor_client_poll(client); /* its last words may have arrived since */
        if (client->end == VM_ALIVE)
            take_death(client);
        return monitor_client_say_end(client, err);
    }
    if (r < 0)
        return error_set(err, -r, "send a request to the monitor");
    while (!reply) {
        r = wait_readable(client, deadline_ns);
        if (r < 0) {
            distrust(client, "the monitor did not answer in time");
            return error_say(err, -r, "the monitor did not answer within %u ms",
                             (unsigned int)timeout_ms);
        }
        receive(client, &reply);
        /* An end that arrives before the reply does not replace it, unless nothing follows. */
        if (!reply && (client->reaped || client->end == VM_END_INTERNAL))
            return monitor_client_say_end(client, err);
    }
    r = reply_error(reply, err);
    if (r < 0) {
        mayfly__monitor__reply__free_unpacked(reply, NULL);
        return r;
    }
    *ret_reply = reply;
    return 0;
}

static int watch(struct monitor_client *client, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(client->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int monitor_client_open(const char *monitor_path, const char *name, struct jail *jail,
                        struct monitor_client **ret_client, struct error *err)
{
    struct monitor_client *client = calloc(1, sizeof(*client));
    int r;

    if (!client)
        return error_set(err, ENOMEM, "make a monitor's client");
    client->reaped = true; /* nothing to reap yet */
    client->process = (struct monitor_process){-1, -1, -1, -1};
    client->ended = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (client->ended < 0 || client->epoll < 0) {
        r = error_set(err, errno, "make a monitor's client");
    } else {
        r = monitor_spawn(monitor_path, name, jail, &client->process, err);
        client->reaped = r < 0;
    }
    if (r == 0 && ((r = watch(client, client->process.control)) < 0 ||
                   (r = watch(client, client->ended)) < 0))
        error_set(err, -r, "watch the monitor");
    if (r < 0) {
        monitor_client_close(client);
        return r;
    }
    *ret_client = client;
    return 0;
}

/* Asks a living monitor to end by itself: it then closes its files in order. Has it agreed? */
static bool ask_to_stop(struct monitor_client *client)
{
    Mayfly__Monitor__Stop stop = MAYFLY__MONITOR__STOP__INIT;
    Mayfly__Monitor__Request request = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Reply *reply = NULL;

    request.body_case = MAYFLY__MONITOR__REQUEST__BODY_STOP;
    request.stop = &stop;
    if (send_request(client, &request, NULL, 0) < 0)
        return false;
    uint64_t deadline_ns = clock_now_ns() + STOP_WAIT_MS * 1000000ull;
    while (!reply && !client->reaped && wait_readable(client, deadline_ns) == 0)
        receive(client, &reply);
    if (!reply)
        return false;
    mayfly__monitor__reply__free_unpacked(reply, NULL);
    return true;
}

void monitor_client_close(struct monitor_client *client)
{
    int status;

    if (!client)
        return;
    bool willing = !client->reaped && ask_to_stop(client);
    if (!client->reaped &&
        monitor_reap(&client->process, willing ? EXIT_WAIT_MS : 0, &status) < 0) {
        pidfd_send_signal(client->process.pidfd, SIGKILL, NULL, 0);
        monitor_reap(&client->process, -1, &status);
    }
    fd_close_at_exit(&client->process.control);
    fd_close_at_exit(&client->process.output);
    fd_close_at_exit(&client->process.pidfd);
    fd_close_at_exit(&client->ended);
    fd_close_at_exit(&client->epoll);
    free(client);
}
