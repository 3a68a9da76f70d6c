/* A VM's memory: see machine_memory.h. */
#include "machine_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "layout.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

enum { PAGEMAP_BATCH = 2048, MAP_TRIES = 16 };

static int keep_file(struct memory_file *file, int fd, uint64_t bytes)
{
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (file->fd < 0)
        return -errno;
    file->bytes = bytes;
    return 0;
}

static void close_file(struct memory_file *file)
{
    if (file->bytes > 0)
        close(file->fd);
    file->bytes = 0;
}

/* While there are no memslots, or when the VM is gone: KVM walks all of a memslot that is unmapped.
 */
static void unmap_ram(struct machine_memory *memory)
{
    if (memory->is_mapped)
        munmap(memory->ram, memory->ram_bytes);
    memory->is_mapped = false;
}

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

/*
 * RAM lies where the kernel puts nothing by itself: far below programs and libraries, and (in a
 * test build) outside of AddressSanitizer's shadow. At random, so that one leaked address gives
 * nothing of another process.
 */
static void *choose_place(void)
{
    static const uint64_t first = 0x200000000000, places = 0x30000, place_bytes = 1u << 30;
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return NULL;
    return (void *)(uintptr_t)(first + random % places * place_bytes); /* of the address space */
}

/* -errno; ->ram is set on success. */
static int map_anonymous(struct machine_memory *memory)
{
    int r = -ENOMEM;

    for (int tries = 0; tries < MAP_TRIES; tries++) {
        void *place = choose_place();

        if (!place)
            return -errno;
        memory->ram =
            mmap(place, memory->ram_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (memory->ram == place)
            return 0;
        r = memory->ram == MAP_FAILED ? -errno : -EEXIST;
        if (memory->ram != MAP_FAILED) /* a kernel that does not know the flag */
            munmap(memory->ram, memory->ram_bytes);
        memory->ram = NULL;
    }
    return r;
}

int machine_memory_init(struct machine_memory *memory, int vm_fd, uint32_t memory_mib,
                        bool is_shell, struct error *err)
{
    uint64_t bytes = (uint64_t)memory_mib << 20;
    uint64_t low = bytes < LAYOUT_RAM_LOW_MAX ? bytes : LAYOUT_RAM_LOW_MAX;

    if (memory_mib < LAYOUT_MEMORY_MIN_MIB || memory_mib > LAYOUT_MEMORY_MAX_MIB)
        return error_say(err, EINVAL, "guest memory of %u MiB: must be %d to %d", memory_mib,
                         LAYOUT_MEMORY_MIN_MIB, LAYOUT_MEMORY_MAX_MIB);
    memory->vm_fd = vm_fd;
    memory->ram_bytes = bytes;
    int r = map_anonymous(memory);
    if (r < 0)
        return error_set(err, -r, "reserve %u MiB of guest memory", memory_mib);
    memory->is_mapped = true;
    /* A name for /proc/PID/smaps, by which the monitor's own memory is told from the guest's. */
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory->ram, bytes, "mayfly-guest");
    if (is_shell)
        unmap_ram(memory);
    r = add_ram(memory, 0, low, 0, err);
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
    int r = keep_file(&region.file, fd, (uint64_t)st.st_size);
    if (r < 0) {
        munmap(host, region.len_bytes);
        return error_set(err, -r, "pmem disk");
    }
    memory->pmem[memory->n_pmem++] = region;
    return add_slot(memory, region.start.value, region.len_bytes, region.host, KVM_MEM_READONLY,
                    err);
}

int machine_memory_map(struct machine_memory *memory, int fd, struct error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "memory file");
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)memory->ram_bytes)
        return error_say(err, EBADMSG, "memory file of %lld bytes for a guest of %llu MiB",
                         (long long)st.st_size, (unsigned long long)(memory->ram_bytes >> 20));
    close_file(&memory->file);
    int r = keep_file(&memory->file, fd, memory->ram_bytes);
    if (r < 0)
        return error_set(err, -r, "memory file");
    void *ram = mmap(memory->ram, memory->ram_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_NORESERVE, fd, 0);
    if (ram == MAP_FAILED)
        return error_set(err, errno, "map memory file");
    memory->is_mapped = true;
    return 0;
}

/* Linux Documentation/admin-guide/mm/pagemap.rst: a present page that is not the file's is a copy
 * that this process made by writing. */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_OF_FILE (1ull << 61)

static bool is_changed(uint64_t entry)
{
    return (entry & PAGEMAP_SWAPPED) || ((entry & PAGEMAP_PRESENT) && !(entry & PAGEMAP_OF_FILE));
}

static bool is_mapped(uint64_t entry)
{
    return (entry & (PAGEMAP_SWAPPED | PAGEMAP_PRESENT)) != 0;
}

static int collect_pages(const struct machine_memory *memory, int pagemap, bool changed,
                         struct snapshot_extents *pages)
{
    const uint64_t n_pages = memory->ram_bytes / SNAPSHOT_PAGE_BYTES;
    const uint64_t start = (uintptr_t)memory->ram / SNAPSHOT_PAGE_BYTES;
    uint64_t entries[PAGEMAP_BATCH];

    for (uint64_t first = 0; first < n_pages; first += PAGEMAP_BATCH) {
        uint64_t n = n_pages - first < PAGEMAP_BATCH ? n_pages - first : PAGEMAP_BATCH;
        int r = fd_pread_all(pagemap, entries, n * sizeof(entries[0]),
                             (off_t)((start + first) * sizeof(entries[0])));

        for (uint64_t i = 0; i < n && r == 0; i++)
            if (changed ? is_changed(entries[i]) : is_mapped(entries[i]))
                r = snapshot_extents_add(pages, (uint32_t)(first + i), 1);
        if (r < 0)
            return r;
    }
    return 0;
}

int machine_memory_pages(const struct machine_memory *memory, int pagemap, bool changed,
                         struct snapshot_extents *ret_pages, struct error *err)
{
    struct snapshot_extents pages = {0};
    int r = collect_pages(memory, pagemap, changed, &pages);
    if (r < 0) {
        snapshot_extents_done(&pages);
        return error_set(err, -r, "read the pagemap");
    }
    *ret_pages = pages;
    return 0;
}

static int write_pages(const struct machine_memory *memory, int fd, struct snapshot_extent run,
                       struct error *err)
{
    uint64_t at = (uint64_t)run.first * SNAPSHOT_PAGE_BYTES;
    uint64_t end = at + (uint64_t)run.n * SNAPSHOT_PAGE_BYTES;

    while (at < end) {
        ssize_t written = pwrite(fd, memory->ram + at, end - at, (off_t)at);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return error_set(err, written < 0 ? errno : EIO, "write guest memory");
        at += (uint64_t)written;
    }
    return 0;
}

int machine_memory_write_changed(const struct machine_memory *memory, int pagemap, int fd,
                                 struct error *err)
{
    struct snapshot_extents pages;
    int r = machine_memory_pages(memory, pagemap, true, &pages, err);

    if (r < 0)
        return r;
    if (ftruncate(fd, (off_t)memory->ram_bytes) < 0)
        r = error_set(err, errno, "size of the memory file");
    for (size_t i = 0; i < pages.n && r == 0; i++)
        r = write_pages(memory, fd, pages.items[i], err);
    snapshot_extents_done(&pages);
    return r;
}

bool machine_memory_holds(const struct machine_memory *memory, uint64_t start, uint64_t len_bytes,
                          bool writable)
{
    if (guest_memory_window(&memory->guest, gpa(start), len_bytes, writable))
        return true;
    for (size_t i = 0; i < memory->n_pmem && !writable; i++) {
        const struct pmem_region *region = &memory->pmem[i];

        if (start >= region->start.value &&
            range_fits(start - region->start.value, len_bytes, region->len_bytes))
            return true;
    }
    return false;
}

void machine_memory_done(struct machine_memory *memory)
{
    for (size_t i = 0; i < memory->n_pmem; i++) {
        munmap(memory->pmem[i].host, memory->pmem[i].len_bytes);
        close_file(&memory->pmem[i].file);
    }
    close_file(&memory->file);
    unmap_ram(memory);
}
