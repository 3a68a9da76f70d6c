/* The monitor's end of the control protocol: see control.h. */
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/clock.h"
#include "common/fd.h"
#include "control.pb-c.h"
#include "machine_snapshot.h"

enum {
    MESSAGE_MAX = 65536,
    /* Start's descriptors, in this order. */
    FD_KVM = 0,
    FD_CONSOLE,
    FD_VSOCK,
    FD_KERNEL, /* not for a shell */
    FD_DISKS,
    MAX_FDS = FD_DISKS + MACHINE_MAX_DISKS,
};

struct control {
    int socket;        /* borrowed */
    struct loop *loop; /* borrowed */
    struct loop_source *source;
    struct machine *machine; /* owned; NULL before Start */
    Mayfly__Monitor__StatusReply__State state;
    int fds[MAX_FDS]; /* owned: what Start brought, for the machine's life */
    size_t n_fds;
    const int *request_fds; /* borrowed: what came with the request that is being served */
    size_t n_request_fds;
    uint64_t request_ns; /* when it was taken off the socket */
};

static void send_message(struct control *control, const Mayfly__Monitor__Message *message)
{
    uint8_t buffer[MESSAGE_MAX];
    size_t len = mayfly__monitor__message__get_packed_size(message);

    /* Every text in a message is bounded, so it fits. If the peer is gone, the loop will see it. */
    if (len > sizeof(buffer))
        return;
    mayfly__monitor__message__pack(message, buffer);
    fd_send_message(control->socket, buffer, len, NULL, 0);
}

static void send_reply(struct control *control, Mayfly__Monitor__Reply *reply)
{
    Mayfly__Monitor__Message message = MAYFLY__MONITOR__MESSAGE__INIT;

    message.body_case = MAYFLY__MONITOR__MESSAGE__BODY_REPLY;
    message.reply = reply;
    send_message(control, &message);
}

static void send_result(struct control *control, int result, struct error *err)
{
    Mayfly__Monitor__Reply reply = MAYFLY__MONITOR__REPLY__INIT;

    if (result < 0) {
        reply.error_code = (uint32_t)-result;
        reply.error_text = err->text;
    }
    send_reply(control, &reply);
}

static void on_machine_ended(void *opaque, enum machine_end how, const char *text)
{
    static const Mayfly__Monitor__Event__Kind kinds[] = {
        [MACHINE_SHUTDOWN] = MAYFLY__MONITOR__EVENT__KIND__SHUTDOWN,
        [MACHINE_RESET] = MAYFLY__MONITOR__EVENT__KIND__RESET,
        [MACHINE_PANIC] = MAYFLY__MONITOR__EVENT__KIND__PANIC,
        [MACHINE_TRIPLE_FAULT] = MAYFLY__MONITOR__EVENT__KIND__TRIPLE_FAULT,
        [MACHINE_INTERNAL] = MAYFLY__MONITOR__EVENT__KIND__INTERNAL_ERROR,
    };
    struct control *control = opaque;
    Mayfly__Monitor__Event event = MAYFLY__MONITOR__EVENT__INIT;
    Mayfly__Monitor__Message message = MAYFLY__MONITOR__MESSAGE__INIT;
    char line[512];

    snprintf(line, sizeof(line), "%s", text);
    control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__ENDED;
    event.kind = kinds[how];
    event.text = line;
    message.body_case = MAYFLY__MONITOR__MESSAGE__BODY_EVENT;
    message.event = &event;
    send_message(control, &message);
}

/* What Start says, as a machine wants it. @request must outlive @config. */
static int machine_config_of(const struct control *control, const Mayfly__Monitor__Start *start,
                             struct machine_config *config, struct error *err)
{
    size_t disks_at = start->shell ? FD_KERNEL : FD_DISKS;

    if (start->n_disks > MACHINE_MAX_DISKS || control->n_fds != disks_at + start->n_disks)
        return error_say(err, EINVAL, "start: %zu descriptors for %zu disks", control->n_fds,
                         start->n_disks);
    *config = (struct machine_config){
        .memory_mib = start->memory_mib,
        .vcpus = start->vcpus,
        .command_line = start->command_line,
        .kvm_fd = control->fds[FD_KVM],
        .kernel_fd = start->shell ? -1 : control->fds[FD_KERNEL],
        .console_fd = control->fds[FD_CONSOLE],
        .vsock_listen_fd = control->fds[FD_VSOCK],
        .vsock_path = start->vsock_path,
        .console_limit_bytes = start->console_limit_bytes,
        .guest_cid = start->guest_cid,
        .n_disks = start->n_disks,
    };
    for (size_t i = 0; i < start->n_disks; i++)
        config->disks[i] = (struct machine_disk){
            .fd = control->fds[disks_at + i],
            .pmem = start->disks[i]->kind == MAYFLY__MONITOR__DISK__KIND__PMEM,
            .read_only = start->disks[i]->read_only,
        };
    return 0;
}

static int do_start(struct control *control, const Mayfly__Monitor__Start *start, struct error *err)
{
    struct machine_config config;

    if (control->machine)
        return error_say(err, EBUSY, "start: this monitor has a VM already");
    int r = machine_config_of(control, start, &config, err);
    if (r == 0)
        r = machine_new(&config, control->loop, on_machine_ended, control, &control->machine, err);
    if (r == 0)
        r = machine_start(control->machine, err);
    if (r == 0 && start->shell)
        control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__SHELL;
    else if (r == 0)
        control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__RUNNING;
    return r;
}

static int do_snapshot(struct control *control, const Mayfly__Monitor__Snapshot *snapshot,
                       struct error *err)
{
    if (control->state != MAYFLY__MONITOR__STATUS_REPLY__STATE__PAUSED)
        return error_say(err, EINVAL, "snapshot: no VM is paused");
    if (control->n_request_fds != 2)
        return error_say(err, EINVAL, "snapshot: wants a memory file and a state file");
    return machine_snapshot(control->machine, control->request_fds[0], control->request_fds[1],
                            snapshot->kept_host_port, err);
}

/* The reply goes out after the guest was set running: it is not on the way to the first result. */
static void do_restore(struct control *control)
{
    Mayfly__Monitor__Reply reply = MAYFLY__MONITOR__REPLY__INIT;
    Mayfly__Monitor__RestoreReply restored = MAYFLY__MONITOR__RESTORE_REPLY__INIT;
    struct restore_times times = {0};
    struct error err = {0};
    int r = 0;

    if (control->state != MAYFLY__MONITOR__STATUS_REPLY__STATE__SHELL)
        r = error_say(&err, EINVAL, "restore: this is no shell");
    else if (control->n_request_fds != 3)
        r = error_say(&err, EINVAL, "restore: wants memory, state and the agent's connection");
    if (r == 0) {
        /* Whatever happens, it is a shell no longer: half a state must not be run or overwritten.
         */
        control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__ENDED;
        r = machine_restore(control->machine, control->request_fds[0], control->request_fds[1],
                            control->request_fds[2], &times, &err);
    }
    if (r < 0) {
        send_result(control, r, &err);
        return;
    }
    control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__RUNNING;
    restored.began_ns = control->request_ns;
    restored.map_ns = times.map_ns;
    restored.restored_ns = times.restored_ns;
    reply.restore = &restored;
    send_reply(control, &reply);
}

static int do_pause(struct control *control, const Mayfly__Monitor__Pause *pause, struct error *err)
{
    if (control->state != MAYFLY__MONITOR__STATUS_REPLY__STATE__RUNNING)
        return error_say(err, EINVAL, "pause: no VM is running");
    if (pause->at_freeze_point && !machine_is_at_freeze_point(control->machine))
        return error_say(err, EAGAIN, "pause: the guest has not come to its freeze point");
    machine_pause(control->machine);
    control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__PAUSED;
    return 0;
}

static int do_resume(struct control *control, struct error *err)
{
    if (control->state != MAYFLY__MONITOR__STATUS_REPLY__STATE__PAUSED)
        return error_say(err, EINVAL, "resume: no VM is paused");
    machine_resume(control->machine);
    control->state = MAYFLY__MONITOR__STATUS_REPLY__STATE__RUNNING;
    return 0;
}

enum { N_COUNTERS = 8 };

static void add_counter(Mayfly__Monitor__StatusReply *status,
                        Mayfly__Monitor__StatusReply__CountersEntry *entry, char *name,
                        uint64_t value)
{
    mayfly__monitor__status_reply__counters_entry__init(entry);
    entry->key = name;
    entry->value = value;
    status->counters[status->n_counters++] = entry;
}

static void do_status(struct control *control)
{
    static char names[N_COUNTERS][24] = {"exits",
                                         "port_exits",
                                         "mmio_exits",
                                         "assist_instructions",
                                         "assist_system_calls",
                                         "assist_page_faults",
                                         "console_bytes",
                                         "console_dropped_bytes"};
    Mayfly__Monitor__Reply reply = MAYFLY__MONITOR__REPLY__INIT;
    Mayfly__Monitor__StatusReply status = MAYFLY__MONITOR__STATUS_REPLY__INIT;
    Mayfly__Monitor__StatusReply__CountersEntry entries[N_COUNTERS];
    Mayfly__Monitor__StatusReply__CountersEntry *list[N_COUNTERS];
    struct machine_status now = {0};

    status.state = control->state;
    status.counters = list;
    if (control->machine)
        machine_get_status(control->machine, &now);
    const uint64_t values[N_COUNTERS] = {now.vcpus.exits,
                                         now.vcpus.port_exits,
                                         now.vcpus.mmio_exits,
                                         now.vcpus.assist_instructions,
                                         now.vcpus.assist_system_calls,
                                         now.vcpus.assist_page_faults,
                                         now.console_bytes,
                                         now.console_dropped_bytes};
    for (size_t i = 0; i < N_COUNTERS; i++)
        add_counter(&status, &entries[i], names[i], values[i]);
    status.emulates_supervisor = now.emulates_supervisor;
    status.vm_create_us = now.create_us;
    status.kernel_load_us = now.kernel_load_us;
    status.boot_tsc = now.boot_tsc;
    status.tsc_khz = now.tsc_khz;
    status.first_exit_ns = now.first_exit_ns;
    reply.status = &status;
    send_reply(control, &reply);
}

static void dispatch(struct control *control, const Mayfly__Monitor__Request *request)
{
    struct error err = {0};

    switch (request->body_case) {
    case MAYFLY__MONITOR__REQUEST__BODY_START:
        send_result(control, do_start(control, request->start, &err), &err);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_PAUSE:
        send_result(control, do_pause(control, request->pause, &err), &err);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_RESUME:
        send_result(control, do_resume(control, &err), &err);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_STATUS:
        do_status(control);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_SNAPSHOT:
        send_result(control, do_snapshot(control, request->snapshot, &err), &err);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_RESTORE:
        do_restore(control);
        break;
    case MAYFLY__MONITOR__REQUEST__BODY_STOP:
        machine_free(control->machine);
        control->machine = NULL;
        send_result(control, 0, &err);
        loop_stop(control->loop, 0);
        break;
    default:
        send_result(control, error_say(&err, EINVAL, "unknown request"), &err);
    }
}

static void close_fds(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
}

static void on_readable(void *opaque, uint32_t events)
{
    struct control *control = opaque;
    uint8_t buffer[MESSAGE_MAX];
    size_t len = 0, n_fds = 0;
    int fds[MAX_FDS];
    int r = fd_recv_message(control->socket, buffer, sizeof(buffer), &len, fds, MAX_FDS, &n_fds);

    (void)events;
    if (r < 0) { /* the host is gone, or talks nonsense: without it this VM has no purpose */
        loop_stop(control->loop, r == -ECONNRESET ? 0 : r);
        return;
    }
    control->request_ns = clock_now_ns();
    Mayfly__Monitor__Request *request = mayfly__monitor__request__unpack(NULL, len, buffer);
    if (!request) {
        close_fds(fds, n_fds);
        loop_stop(control->loop, -EBADMSG);
        return;
    }
    control->request_fds = fds;
    control->n_request_fds = n_fds;
    if (request->body_case == MAYFLY__MONITOR__REQUEST__BODY_START && control->n_fds == 0) {
        memcpy(control->fds, fds, n_fds * sizeof(fds[0]));
        control->n_fds = n_fds;
        n_fds = 0;
    }
    dispatch(control, request);
    close_fds(fds, n_fds);
    mayfly__monitor__request__free_unpacked(request, NULL);
}

int control_new(int socket, struct loop *loop, struct control **ret_control, struct error *err)
{
    struct control *control = calloc(1, sizeof(*control));

    if (!control)
        return error_set(err, ENOMEM, "control socket");
    control->socket = socket;
    control->loop = loop;
    int r = loop_add(loop, socket, EPOLLIN, on_readable, control, &control->source);
    if (r < 0) {
        free(control);
        return error_set(err, -r, "control socket (--control-fd %d)", socket);
    }
    *ret_control = control;
    return 0;
}

void control_free(struct control *control)
{
    if (!control)
        return;
    loop_remove(control->source);
    machine_free(control->machine);
    close_fds(control->fds, control->n_fds);
    free(control);
}
