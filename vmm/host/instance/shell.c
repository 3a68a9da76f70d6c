/* Shells: see shell.h. Process: the host's; a monitor's word is shown, never relied upon. */
#include "shell.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "common/clock.h"

int shell_start_vm(const struct instance_config *config, const struct shell_shape *shape,
                   const char *directory, const char *kernel, struct vm **ret_vm, struct error *err)
{
    const struct vm_config vm = {.monitor_path = config->monitor_path,
                                 .kernel_path = kernel,
                                 .directory = directory,
                                 .console_path = config->console_path,
                                 .command_line = config->command_line,
                                 .cpu_template = shape->cpu_template,
                                 .jail = config->jail,
                                 .cpu = config->cpu,
                                 .seccomp_trap = config->seccomp_trap,
                                 .memory_mib = shape->memory_mib,
                                 .cpu_mib = shape->cpu_mib,
                                 .vcpus = shape->vcpus,
                                 .n_disks = 1,
                                 .disks = {{.path = shape->image, .pmem = true}}};

    return config->hypervisor->start(&vm, ret_vm, err);
}

/* What is asked of the monitor while nobody waits for it. */
static int learn(struct shell *shell, struct error *err)
{
    struct vm_status status;
    int r = shell->hypervisor->status(shell->vm, &status, err);

    if (r < 0)
        return r;
    if (status.end != VM_ALIVE)
        return error_say(err, ECONNRESET, "%s", status.end_text);
    shell->emulates_supervisor = status.emulates_supervisor;
    shell->private_bytes = status.private_bytes;
    memcpy(shell->jail_missing, status.jail_missing, sizeof(shell->jail_missing));
    return 0;
}

int shell_make(const struct instance_config *config, const struct shell_shape *shape,
               struct shell *ret_shell, struct error *err)
{
    struct shell shell = {.hypervisor = config->hypervisor, .directory = {.lock = -1}};
    int r = identity_instance(shell.id, err);

    if (r == 0)
        r = run_directory_make(config->run_directory, shell.id, &shell.directory, err);
    if (r < 0)
        return r;
    uint64_t start_us = clock_now_us();
    r = shell_start_vm(config, shape, shell.directory.path, NULL, &shell.vm, err);
    shell.create_us = clock_now_us() - start_us;
    if (r == 0)
        r = learn(&shell, err);
    if (r < 0) {
        shell_done(&shell);
        return r;
    }
    *ret_shell = shell;
    return 0;
}

bool shell_is_dead(const struct shell *shell)
{
    struct pollfd end = {.fd = shell->hypervisor->end_fd(shell->vm), .events = POLLIN};

    /* A monitor without a guest has nothing to say but its end. */
    return poll(&end, 1, 0) > 0;
}

void shell_done(struct shell *shell)
{
    if (shell->vm)
        shell->hypervisor->destroy(shell->vm);
    shell->vm = NULL;
    run_directory_remove(&shell->directory);
}
