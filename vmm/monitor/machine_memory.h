/* A VM's memory: RAM and persistent-memory regions, mapped here and given to KVM as memslots. */
#ifndef MAYFLY_MONITOR_MACHINE_MEMORY_H
#define MAYFLY_MONITOR_MACHINE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "guest_memory.h"
#include "snapshot/snapshot_extents.h"

enum { MACHINE_MEMORY_MAX_PMEM = 8 };

/* A file that is mapped: kept open, so that its being cut short can be told from other faults. */
struct memory_file {
    int fd;         /* owned */
    uint64_t bytes; /* mapped of it; 0: there is none */
};

struct pmem_region {
    gpa_t start;
    uint64_t len_bytes; /* a multiple of 2 MiB; zeros beyond the file */
    uint8_t *host;      /* owned mapping, read-only */
    struct memory_file file;
};

struct machine_memory {
    int vm_fd;    /* borrowed */
    uint8_t *ram; /* where RAM is, or in a shell will be: owned mapping of ram_bytes */
    uint64_t ram_bytes;
    bool is_mapped;
    struct memory_file file;   /* what RAM was mapped from; none before a restore */
    struct guest_memory guest; /* RAM only: devices may not be pointed at a root image */
    uint32_t n_slots;
    size_t n_pmem;
    struct pmem_region pmem[MACHINE_MEMORY_MAX_PMEM];
};

/*
 * machine_memory_init - reserve RAM (lazily filled, zero) and make its memslots. Must be called
 * before the irqchip is made: a memslot added later waits for a grace period of the host's kernel.
 * @is_shell: the addresses are kept free, and nothing is there before machine_memory_map(). To
 * replace a mapping under a memslot makes KVM walk the whole of it, 0.3 ms for 2 GiB.
 */
int machine_memory_init(struct machine_memory *memory, int vm_fd, uint32_t memory_mib,
                        bool is_shell, struct error *err);

/*
 * machine_memory_add_pmem - map the file at @fd (borrowed) read-only into the guest. Its pages stay
 * in the host's page cache, shared by every VM that maps it.
 */
int machine_memory_add_pmem(struct machine_memory *memory, int fd, struct error *err);

/*
 * machine_memory_map - give a shell its RAM: a private (copy-on-write) mapping of the file at @fd
 * (borrowed), at the addresses that the memslots name already. -EBADMSG if the file is shorter.
 */
int machine_memory_map(struct machine_memory *memory, int fd, struct error *err);

/*
 * machine_memory_pages - the pages of RAM that are mapped, or with @changed only those that are no
 * longer what they were mapped from. vCPUs may run: then it is true of some moment for each page.
 * @pagemap: /proc/PID/pagemap of this process. *ret_pages is owned.
 */
int machine_memory_pages(const struct machine_memory *memory, int pagemap, bool changed,
                         struct snapshot_extents *ret_pages, struct error *err);

/*
 * machine_memory_write_changed - write each page of RAM that is no longer what it was mapped from
 * to its place in @fd; everything else stays a hole. No vCPU may run. @pagemap: as above. Both
 * borrowed.
 */
int machine_memory_write_changed(const struct machine_memory *memory, int pagemap, int fd,
                                 struct error *err);

/*
 * machine_memory_holds - is all of [@start, @start + @len_bytes) memory that the guest can read (or
 * with @writable: write)? Then KVM has no business reporting an access to it.
 */
bool machine_memory_holds(const struct machine_memory *memory, uint64_t start, uint64_t len_bytes,
                          bool writable);

/* machine_memory_done - unmap; the VM must be gone. Takes a zeroed struct. */
void machine_memory_done(struct machine_memory *memory);

#endif
