/* One clone under measurement: see bench_clone.h. Process: the CLI. */
#include "bench_clone.h"

#include <errno.h>
#include <poll.h>

#include "common/clock.h"
#include "host/instance/identity.h"

enum {
    ANSWER_MS = 60000,
    FIRST_EXIT_MS = 10000,
};

int bench_clone_start(const struct bench_subject *subject, const char *directory,
                      struct bench_clone *ret_clone, struct error *err)
{
    const struct vm_config config = {.directory = directory,
                                     .memory_mib = subject->memory_mib,
                                     .vcpus = subject->vcpus,
                                     .n_disks = 1,
                                     .disks = {{.path = subject->image, .pmem = true}}};

    *ret_clone = (struct bench_clone){0};
    return hypervisor_kvm.start(&config, &ret_clone->vm, err);
}

int bench_clone_restore(const struct bench_subject *subject, int interrupt_fd,
                        struct bench_clone *clone, struct error *err)
{
    int fd, r = hypervisor_kvm.restore(clone->vm, subject->memory_fd, subject->state_fd, &fd,
                                       &clone->times, err);

    return r < 0 ? r
                 : agent_client_new(fd, hypervisor_kvm.end_fd(clone->vm), interrupt_fd, NULL, NULL,
                                    &clone->agent, err);
}

/* The conversation failed: if the VM's end is why, that is what there is to say. */
static int explain(struct bench_clone *clone, int r, struct error *err)
{
    struct vm_status status;
    struct error ignored;

    if (r == -ECONNRESET && hypervisor_kvm.status(clone->vm, &status, &ignored) == 0 &&
        status.end != VM_ALIVE)
        return error_say(err, ECONNRESET, "%s", status.end_text);
    return r;
}

static int take(struct bench_clone *clone, int r, struct agent_result *result, struct error *err)
{
    if (r < 0)
        return explain(clone, r, err);
    if (result->outcome != OUTCOME_OK)
        r = error_say(err, EIO, "the benchmark's own function failed in a restored guest: %s",
                      result->message);
    agent_result_done(result);
    return r;
}

int bench_clone_tell(struct bench_clone *clone, struct error *err)
{
    char id[INSTANCE_ID_BYTES];
    const struct agent_rebirth rebirth = {.instance_id = id, .hostname = id};
    int r = identity_instance(id, err);

    if (r == 0)
        r = agent_client_reborn(clone->agent, &rebirth, ANSWER_MS, err);
    return r < 0 ? explain(clone, r, err) : 0;
}

int bench_clone_awaken(struct bench_clone *clone, struct error *err)
{
    char id[INSTANCE_ID_BYTES];
    const struct agent_rebirth rebirth = {.instance_id = id, .hostname = id};
    struct agent_result result;
    int r = identity_instance(id, err);

    if (r < 0)
        return r;
    return take(clone, agent_client_awaken(clone->agent, &rebirth, ANSWER_MS, &result, err),
                &result, err);
}

int bench_clone_invoke(struct bench_clone *clone, struct error *err)
{
    char request[REQUEST_ID_BYTES], id[INSTANCE_ID_BYTES];
    const struct agent_rebirth rebirth = {.instance_id = id, .hostname = id};
    const struct agent_event event = {.request_id = request,
                                      .data = "{}",
                                      .len_bytes = 2,
                                      .timeout_ms = ANSWER_MS,
                                      .rebirth = &rebirth};
    struct agent_result result;
    int r = identity_request(request, err);

    if (r == 0)
        r = identity_instance(id, err);
    if (r < 0)
        return r;
    return take(clone,
                agent_client_invoke(clone->agent, &event, ANSWER_MS, ANSWER_MS, &result, err),
                &result, err);
}

int bench_clone_status(struct bench_clone *clone, struct vm_status *ret_status, struct error *err)
{
    int r = hypervisor_kvm.status(clone->vm, ret_status, err);

    if (r == 0 && ret_status->end != VM_ALIVE)
        return error_say(err, ECONNRESET, "%s", ret_status->end_text);
    return r;
}

int bench_clone_first_exit(struct bench_clone *clone, struct vm_status *ret_status,
                           struct error *err)
{
    uint64_t deadline_ns = clock_now_ns() + FIRST_EXIT_MS * 1000000ull;

    do {
        int r = bench_clone_status(clone, ret_status, err);

        if (r < 0 || ret_status->first_exit_ns > 0)
            return r;
        poll(NULL, 0, 1);
    } while (clock_now_ns() < deadline_ns);
    return error_say(err, ETIMEDOUT, "a restored guest did not come back from KVM within %d s",
                     FIRST_EXIT_MS / 1000);
}

void bench_clone_end(struct bench_clone *clone)
{
    agent_client_free(clone->agent);
    hypervisor_kvm.destroy(clone->vm);
    *clone = (struct bench_clone){0};
}
