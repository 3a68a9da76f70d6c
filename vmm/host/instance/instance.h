/*
 * An instance: one microVM that serves one version of one function, from boot to end.
 *
 *   instance_boot() → instance_prepare() → instance_invoke()… → instance_destroy()
 *
 * No printing, no globals: a command or a daemon uses it alike. Threads: one at a time per
 * instance, and the one that booted it, or restored it without a pool of shells, must live on (the
 * monitor dies with it). A function's failure is a result (struct agent_result); an error means the
 * host could not do it, and the instance then only waits to be destroyed.
 */
#ifndef MAYFLY_HOST_INSTANCE_INSTANCE_H
#define MAYFLY_HOST_INSTANCE_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent_client.h"
#include "hypervisor/hypervisor.h"
#include "images/image_store.h"
#include "package.h"
#include "snapshot/snapshot_extents.h"

struct instance;
struct shell_pool;

/* What is being done now, for progress. */
enum instance_stage {
    STAGE_DECOMPRESS,
    STAGE_VM_CREATE,
    STAGE_KERNEL, /* and the agent's start: the host cannot tell them apart before Hello */
    STAGE_INIT,
    STAGE_INVOKE,
    STAGE_FREEZE,
    STAGE_RESTORE,
};

typedef void instance_progress(void *opaque, enum instance_stage stage);

struct instance_config {
    const struct hypervisor_ops *hypervisor;
    struct image_store *store; /* borrowed during instance_boot() */
    const char *image;         /* names in the store */
    const char *kernel;
    const char *image_path;    /* the raw image, for a caller that knows it; NULL: looked up */
    const char *run_directory; /* <state>/run; made where missing */
    const char *console_path;  /* NULL: a file that goes with the instance */
    const char *monitor_path;  /* NULL: beside the running program */
    const char *command_line;  /* further words for the guest kernel; may be NULL */
    enum vm_jail jail;
    enum vm_cpu cpu;
    bool seccomp_trap;        /* see vm_config */
    const char *cpu_template; /* common/cpu_template.h; NULL: the host's CPU */
    uint32_t memory_mib;      /* of the VM: see instance_vm_memory_mib() */
    uint32_t cpu_mib;         /* the function's: its part of the CPUs follows; 0: memory_mib */
    uint32_t vcpus;
    struct shell_pool *shells;   /* borrowed: where a restore gets its shell; NULL: it makes one */
    int interrupt_fd;            /* borrowed for life; readable means stop waiting; may be -1 */
    instance_progress *on_stage; /* may be NULL, as may on_log; called on the caller's thread */
    agent_log *on_log;
    void *opaque; /* for both */
};

/* What each stage took, in microseconds; 0 before it ran. */
struct instance_timings {
    uint64_t decompress_us;  /* image and kernel; 0: both were cached */
    uint64_t vm_create_us;   /* monitor started, VM made, kernel loaded */
    uint64_t kernel_us;      /* first guest instruction to the agent's main() */
    uint64_t agent_ready_us; /* from there to its Hello here */
    uint64_t restore_us;     /* restored from a snapshot: asked for to running; 0: booted */
    uint64_t init_us;        /* code sent, runtime started, handler loaded */
    uint64_t invoke_us;      /* event sent, result here */
};

struct instance_function {
    /* Whose it is. What an init phase made, keys and all, is in a snapshot: functions of two owners
     * never share one, be their code the same to the last byte. NULL: of whoever has the state. */
    const char *owner;
    /* Put into the name of its snapshot, for who collects those that are of no more use: letters,
     * digits, '.', '-'; up to 38. NULL: nothing is. */
    const char *label;
    const char *runtime;
    const char *handler;
    const char *name;
    const char *version;
    const struct agent_variable *environment;
    size_t n_environment;
    const struct package *package;
    const char *arn;     /* NULL: one is made up */
    uint32_t memory_mib; /* what its processes may take; 0: all that the VM has */
    uint32_t tmp_mib;    /* size of /tmp, beside that; 0: half of the VM's memory, at most 512 */
};

/*
 * instance_vm_memory_mib - the memory of a VM for a function that may take @memory_mib and has a
 * /tmp of @tmp_mib, which lies in memory: both, and what the guest's kernel and agent need. Memory
 * that nobody touches costs the host nothing, nor a restore any time.
 */
uint32_t instance_vm_memory_mib(uint32_t memory_mib, uint32_t tmp_mib);

/*
 * instance_boot - decompress what is needed, start the VM, wait for its agent.
 * *ret_instance is owned: instance_destroy() it. On failure nothing is left behind.
 * Errors: -ENOENT for an unknown image or kernel, those of the image store and the hypervisor,
 * -ETIMEDOUT, -EINTR (interrupt), -ECONNRESET with the guest's last words.
 */
int instance_boot(const struct instance_config *config, struct instance **ret_instance,
                  struct error *err);

/* instance_prepare - the init phase. *ret_result: agent_result_done() it; OK: events may follow. */
int instance_prepare(struct instance *instance, const struct instance_function *function,
                     struct agent_result *ret_result, struct error *err);

/*
 * instance_invoke - one event. The guest keeps the timeout; if it does not, this does: the result
 * is then OUTCOME_TIMEOUT and the VM is gone. Returns 0 with *ret_result, -EINVAL where the
 * instance is not ready for events, or as above.
 */
int instance_invoke(struct instance *instance, const struct agent_event *event,
                    struct agent_result *ret_result, struct error *err);

/* --- snapshots (instance_snapshot.c) --- */

/* A snapshot's parts, ready to be used; descriptors borrowed for the call. */
struct instance_frozen {
    int memory_fd;     /* all of RAM */
    int state_fd;      /* the monitor's state */
    bool has_function; /* frozen after the init phase: events may follow at once */
};

/* instance_preload - the runtime's process without a function, in a booted instance. @memory_mib:
 * of the function to come, as far as the runtime wants to know it ahead; 0: all that the VM has. */
int instance_preload(struct instance *instance, const char *runtime, uint32_t memory_mib,
                     struct error *err);

/*
 * instance_freeze - the function's before-snapshot hooks, then the guest at rest, paused, and
 * written into two empty files (borrowed; see hypervisor_ops.snapshot). Afterwards
 * instance_thaw() or instance_destroy().
 * Returns 0 with OUTCOME_OK in *ret_result, 0 with what a hook did, or an error.
 */
int instance_freeze(struct instance *instance, int memory_fd, int state_fd,
                    struct agent_result *ret_result, struct error *err);
int instance_thaw(struct instance *instance, struct error *err);

/*
 * instance_restore - a shell of config's memory, vCPUs and image (its kernel is not used), filled
 * with @frozen. The guest is told who it is with the first that it is asked.
 * A shell that died before it could be filled is replaced once.
 * -EBADMSG for a damaged state, -ENOTSUP for another processor's; else as instance_boot() and
 * shell_pool_make().
 */
int instance_restore(const struct instance_config *config, const struct instance_frozen *frozen,
                     struct instance **ret_instance, struct error *err);

/* instance_usable - may it be given (further) events? */
bool instance_usable(const struct instance *instance);

/* instance_is_alive - has its VM not ended, as far as is known without asking it? Never blocks. */
bool instance_is_alive(const struct instance *instance);

/* instance_find_image - the raw copy of the root image @name in config->store, decompressed now if
 * need be. *ret_path is owned (free()). Errors: as instance_boot(). */
int instance_find_image(const struct instance_config *config, const char *name, char **ret_path,
                        struct error *err);

/* All borrowed until the instance is destroyed. */
const char *instance_id(const struct instance *instance);
const struct agent_hello *instance_hello(const struct instance *instance);
const struct instance_timings *instance_timings(const struct instance *instance);

/* instance_jail_missing - what of the jail this host does not allow; "": nothing. */
const char *instance_jail_missing(const struct instance *instance);

/* instance_private_bytes - the monitor's own memory, as last seen. */
uint64_t instance_private_bytes(const struct instance *instance);

/* instance_destroy - ends the VM, removes its directory. Takes NULL. */
void instance_destroy(struct instance *instance);

/*
 * instance_working_set - the pages of RAM that a restored instance has touched so far. Believed
 * only as far as it is a list of pages within its memory: -EBADMSG otherwise. *ret_pages is owned.
 */
int instance_working_set(struct instance *instance, struct snapshot_extents *ret_pages,
                         struct error *err);

#endif
