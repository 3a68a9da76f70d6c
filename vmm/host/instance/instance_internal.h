/* Shared by the instance's files (instance.c, instance_snapshot.c) only. */
#ifndef MAYFLY_HOST_INSTANCE_INSTANCE_INTERNAL_H
#define MAYFLY_HOST_INSTANCE_INSTANCE_INTERNAL_H

#include "identity.h"
#include "instance.h"
#include "run_directory.h"
#include "shell.h"

enum {
    MIB = 1 << 20,
    MAX_LOG_BYTES = 1 * MIB,   /* of a phase, forwarded; the rest is counted */
    TMP_MAX_BYTES = 512 * MIB, /* where none was asked for */
    GUEST_SYSTEM_MIB = 32,     /* the guest's kernel, its agent, the code's files */
    PAGE_MAP_SHARE = 60,       /* Linux keeps 64 bytes for each page of 4096 */
};

/* How long the host waits. Where KVM emulates the guest's kernel mode, all of it takes longer. */
struct patience {
    uint64_t boot_ms;
    uint32_t init_ms; /* the guest's own limit on the init phase; 10 s in Lambda */
    uint64_t send_ms; /* for any message, plus… */
    uint64_t send_ms_per_mib;
    uint64_t grace_ms;  /* beyond a limit that the guest keeps itself */
    uint32_t settle_ms; /* from the agent's word that it rests until its kernel does, too */
};

enum state {
    STATE_NONE, /* in the table: this event is not allowed here */
    STATE_NEW,
    STATE_RUNNING, /* the VM runs, its agent has not spoken */
    STATE_READY,   /* the agent waits for a function */
    STATE_IDLE,    /* the function is initialised, waits for events */
    STATE_SPENT,   /* alive, but its runtime is gone */
    STATE_LOST,    /* the VM is gone, or the conversation with it broke */
    N_STATES,
};

enum event {
    EVENT_STARTED,
    EVENT_HELLO,
    EVENT_RESTORED_READY, /* a guest frozen before it had a function */
    EVENT_RESTORED_IDLE,  /* one frozen after its init phase */
    EVENT_PRELOADED,
    EVENT_FROZEN,
    EVENT_PREPARE, /* asks only: the outcome follows as an event of its own */
    EVENT_INITIALISED,
    EVENT_INVOKE, /* likewise */
    EVENT_ANSWERED,
    EVENT_RUNTIME_GONE,
    EVENT_BROKEN,
    N_EVENTS,
};

struct instance {
    enum state state;
    struct instance_config config; /* pointers borrowed during instance_boot() only, but for
                                      hypervisor, on_stage, on_log, opaque */
    char id[INSTANCE_ID_BYTES];
    struct run_directory directory; /* owned */
    struct vm *vm;                  /* owned; NULL once destroyed */
    struct agent_client *agent;     /* owned; NULL before Hello and after a break */
    const struct patience *patience;
    uint64_t started_ns;  /* when start() returned: the guest runs */
    uint64_t restored_ns; /* when it was taken from its snapshot; 0: it was not */
    bool is_preferred;    /* over VMs that have yet to start */
    bool is_reborn;       /* restored, and the guest has not been told who it is now */
    uint64_t private_bytes;
    char jail_missing[sizeof(((struct vm_status *)0)->jail_missing)];
    struct agent_hello hello;
    struct instance_timings timings;
};

/* instance_step - the table's verdict on @event: -EINVAL where it is not allowed. */
int instance_step(struct instance *instance, enum event event, struct error *err);

/* instance_tell - progress. */
void instance_tell(const struct instance *instance, enum instance_stage stage);

/* instance_us_since - microseconds since @start_ns of CLOCK_MONOTONIC. */
uint64_t instance_us_since(uint64_t start_ns);

/* instance_broken - the conversation failed with @r: the instance is lost, and @err says why. */
int instance_broken(struct instance *instance, int r, struct error *err);

/* instance_new - in STATE_NEW, without a VM, an id or a directory. *ret_instance is owned. */
int instance_new(const struct instance_config *config, struct instance **ret_instance,
                 struct error *err);

/* instance_be_patient - as this host needs it. */
void instance_be_patient(struct instance *instance, bool emulates_supervisor);

/* instance_prefer - it has started: from now on it comes before those that start. */
void instance_prefer(struct instance *instance);

/* instance_drop_vm - what there is of a VM and its directory. */
void instance_drop_vm(struct instance *instance);

uint64_t instance_tmp_bytes(uint32_t tmp_mib, uint32_t vm_memory_mib);

#endif
