/*
 * A shell: an empty microVM with the directory that its sockets are in, waiting to be filled with a
 * snapshot. All that a restore does not need to wait for has been done.
 *
 * Threads: one at a time per shell. The thread that makes one must live for as long as the VM does:
 * a monitor dies with the thread that spawned it.
 */
#ifndef MAYFLY_HOST_INSTANCE_SHELL_H
#define MAYFLY_HOST_INSTANCE_SHELL_H

#include "identity.h"
#include "instance.h"
#include "run_directory.h"

/* What makes one shell as good as another. */
struct shell_shape {
    const char *image;        /* path of the raw root image; its name is its content's digest */
    const char *cpu_template; /* common/cpu_template.h; NULL or "": the host's CPU */
    uint32_t memory_mib;
    uint32_t cpu_mib; /* as in vm_config */
    uint32_t vcpus;
};

struct shell {
    char id[INSTANCE_ID_BYTES];
    struct run_directory directory; /* owned */
    const struct hypervisor_ops *hypervisor;
    struct vm *vm;            /* owned; NULL once destroyed */
    bool emulates_supervisor; /* KVM here emulates guest kernel mode */
    uint64_t create_us;       /* what making the VM took */
    uint64_t private_bytes;   /* the monitor's own memory */
    char jail_missing[sizeof(((struct vm_status *)0)->jail_missing)];
};

/*
 * shell_start_vm - a VM in @directory, as @config says, whose memory, vCPUs and image come from
 * @shape. @kernel NULL: a shell's, else it boots. Errors: those of hypervisor_ops.start().
 */
int shell_start_vm(const struct instance_config *config, const struct shell_shape *shape,
                   const char *directory, const char *kernel, struct vm **ret_vm,
                   struct error *err);

/*
 * shell_make - a shell with an id and a directory of its own below config->run_directory.
 * *ret_shell is owned: shell_done() it. On failure nothing is left behind; -ECONNRESET if the
 * monitor died at once.
 */
int shell_make(const struct instance_config *config, const struct shell_shape *shape,
               struct shell *ret_shell, struct error *err);

/* shell_is_dead - has its VM ended, as far as is known without asking it? Never blocks. */
bool shell_is_dead(const struct shell *shell);

/* shell_done - ends the VM, removes the directory. Takes an empty one. */
void shell_done(struct shell *shell);

#endif
