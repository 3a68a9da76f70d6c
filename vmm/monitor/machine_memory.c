/* A VM's memory: see machine_memory.h. */
#include "machine_memory.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "layout.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static int add_slot(struct machine_memory *memory, uint64_t start, uint64_t len, uint8_t *host,
                    uint32_t flags, struct error *err)
{
    struct kvm_userspace_memory_region region = {.slot = memory->n_slots,
                                                 .flags = flags,
                                                 .guest_phys_addr = start,
                                                 .memory_size = len,
                                                 .userspace_addr = (uintptr_t)host};

    if (ioctl(memory->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return error_set(err, errno, "KVM_SET_USER_MEMORY_REGION of %llu MiB at %#llx",
                         (unsigned long long)(len >> 20), (unsigned long long)start);
    memory->n_slots++;
    return 0;
}

static int add_ram(struct machine_memory *memory, uint64_t start, uint64_t len, uint64_t offset,
                   struct error *err)
{
    struct guest_region region = {.start = start, .len_bytes = len, .host = memory->ram + offset};

    if (len == 0)
        return 0;
    int r = guest_memory_add(&memory->guest, region);
    if (r < 0)
        return error_set(err, -r, "guest memory at %#llx", (unsigned long long)start);
    return add_slot(memory, start, len, memory->ram + offset, 0, err);
}

int machine_memory_init(struct machine_memory *memory, int vm_fd, uint32_t memory_mib,
                        struct error *err)
{
    uint64_t bytes = (uint64_t)memory_mib << 20;
    uint64_t low = bytes < LAYOUT_RAM_LOW_MAX ? bytes : LAYOUT_RAM_LOW_MAX;

    if (memory_mib < LAYOUT_MEMORY_MIN_MIB || memory_mib > LAYOUT_MEMORY_MAX_MIB)
        return error_say(err, EINVAL, "guest memory of %u MiB: must be %d to %d", memory_mib,
                         LAYOUT_MEMORY_MIN_MIB, LAYOUT_MEMORY_MAX_MIB);
    void *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED)
        return error_set(err, errno, "reserve %u MiB of guest memory", memory_mib);
    /* A name for /proc/PID/smaps, by which the monitor's own memory is told from the guest's. */
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, ram, bytes, "mayfly-guest");
    memory->vm_fd = vm_fd;
    memory->ram = ram;
    memory->ram_bytes = bytes;
    int r = add_ram(memory, 0, low, 0, err);
    return r < 0 ? r : add_ram(memory, LAYOUT_RAM_HIGH, bytes - low, low, err);
}

static gpa_t next_pmem_start(const struct machine_memory *memory)
{
    if (memory->n_pmem == 0)
        return gpa(LAYOUT_PMEM);
    const struct pmem_region *last = &memory->pmem[memory->n_pmem - 1];
    return gpa(round_up(last->start.value + last->len_bytes, LAYOUT_PMEM_ALIGN));
}

int machine_memory_add_pmem(struct machine_memory *memory, int fd, struct error *err)
{
    struct stat st;

    if (memory->n_pmem == MACHINE_MEMORY_MAX_PMEM)
        return error_say(err, ENOSPC, "more than %d pmem disks", MACHINE_MEMORY_MAX_PMEM);
    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "pmem disk");
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)64 << 30)
        return error_say(err, EINVAL, "pmem disk: not an image file (%lld bytes)",
                         (long long)st.st_size);
    struct pmem_region region = {.start = next_pmem_start(memory),
                                 .len_bytes = round_up((uint64_t)st.st_size, LAYOUT_PMEM_UNIT)};
    void *host = mmap(NULL, region.len_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        return error_set(err, errno, "pmem disk: reserve address space");
    region.host = host;
    if (mmap(host, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int r = error_set(err, errno, "pmem disk: map");
        munmap(host, region.len_bytes);
        return r;
    }
    memory->pmem[memory->n_pmem++] = region;
    return add_slot(memory, region.start.value, region.len_bytes, region.host, KVM_MEM_READONLY,
                    err);
}

void machine_memory_done(struct machine_memory *memory)
{
    for (size_t i = 0; i < memory->n_pmem; i++)
        munmap(memory->pmem[i].host, memory->pmem[i].len_bytes);
    if (memory->ram)
        munmap(memory->ram, memory->ram_bytes);
}
