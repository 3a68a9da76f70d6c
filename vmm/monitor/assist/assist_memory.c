/* Guest-virtual memory for the assist: a walk of the guest's tables, and #PF where it must be. */
#include "assist_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"

enum {
    PAGE_SHIFT = 12,
    PAGE_BYTES = 1 << PAGE_SHIFT,
    ENTRY_PRESENT = 1 << 0,
    ENTRY_WRITABLE = 1 << 1,
    ENTRY_ACCESSED = 1 << 5,
    ENTRY_DIRTY = 1 << 6,
    ENTRY_LARGE = 1 << 7,
};

#define ADDRESS_MASK 0x000ffffffffff000ull
#define CR0_WP (1ull << 16)

struct walk {
    uint64_t physical;
    uint32_t fault_code; /* valid if the walk failed with -EAGAIN */
};

/* The guest's other vCPUs may change the tables meanwhile: entries are loaded and marked at once.
 */
static uint64_t *entry_at(const struct guest_memory *memory, uint64_t physical)
{
    return guest_memory_window(memory, gpa(physical & ~7ull), sizeof(uint64_t), 1);
}

static int walk(const struct assist *assist, const struct kvm_sregs *sregs, uint64_t address,
                bool write, bool mark, struct walk *ret)
{
    uint64_t table = sregs->cr3 & ADDRESS_MASK;
    uint64_t *entries[4];
    bool writable = true;
    int level;

    for (level = 3;; level--) {
        unsigned shift = PAGE_SHIFT + 9 * (unsigned)level;
        uint64_t *entry = entry_at(assist->memory, table + ((address >> shift) & 511) * 8);

        if (!entry)
            return -EFAULT;
        uint64_t value = __atomic_load_n(entry, __ATOMIC_RELAXED);
        if (!(value & ENTRY_PRESENT)) {
            ret->fault_code = write ? FAULT_WRITE : 0;
            return -EAGAIN;
        }
        entries[level] = entry;
        writable = writable && (value & ENTRY_WRITABLE);
        if (level == 0 || (level < 3 && (value & ENTRY_LARGE))) {
            uint64_t inside = (1ull << shift) - 1;

            ret->physical = (value & ADDRESS_MASK & ~inside) | (address & inside);
            break;
        }
        table = value & ADDRESS_MASK;
    }
    if (write && !writable && (sregs->cr0 & CR0_WP)) {
        ret->fault_code = FAULT_WRITE | FAULT_PRESENT;
        return -EAGAIN;
    }
    for (int i = 3; mark && i >= level; i--) {
        uint64_t bits = ENTRY_ACCESSED | (write && i == level ? ENTRY_DIRTY : 0);

        if ((__atomic_load_n(entries[i], __ATOMIC_RELAXED) & bits) != bits)
            __atomic_fetch_or(entries[i], bits, __ATOMIC_RELAXED);
    }
    return 0;
}

static int inject_page_fault(struct assist_frame *frame, uint64_t address, uint32_t code)
{
    frame->sregs.cr2 = address;
    frame->faulted = true;
    if (ioctl(frame->assist->vcpu_fd, KVM_SET_SREGS, &frame->sregs) < 0)
        return -errno;
    int r = assist_inject(frame->assist, VECTOR_PF, true, code);
    return r < 0 ? r : -EAGAIN;
}

/* Calls with pieces that lie in one page each; copies nothing before all pages are there. */
static int translate(struct assist_frame *frame, uint64_t address, bool write, uint64_t *ret)
{
    struct walk found = {0};
    int r = walk(frame->assist, &frame->sregs, address, write, true, &found);

    if (r == -EAGAIN)
        return inject_page_fault(frame, address, found.fault_code);
    *ret = found.physical;
    return r;
}

static size_t piece(uint64_t address, size_t len_bytes)
{
    size_t left = PAGE_BYTES - (size_t)(address & (PAGE_BYTES - 1));

    return len_bytes < left ? len_bytes : left;
}

int assist_read(struct assist_frame *frame, uint64_t address, void *to, size_t len_bytes)
{
    uint8_t *at = to;

    while (len_bytes > 0) {
        size_t n = piece(address, len_bytes);
        uint64_t physical;
        int r = translate(frame, address, false, &physical);

        if (r < 0)
            return r;
        if (guest_memory_read(frame->assist->memory, gpa(physical), at, n) < 0)
            return -EFAULT;
        at += n;
        address += n;
        len_bytes -= n;
    }
    return 0;
}

int assist_write(struct assist_frame *frame, uint64_t address, const void *from, size_t len_bytes)
{
    const uint8_t *at = from;

    while (len_bytes > 0) {
        size_t n = piece(address, len_bytes);
        uint64_t physical;
        int r = translate(frame, address, true, &physical);

        if (r < 0)
            return r;
        if (guest_memory_write(frame->assist->memory, gpa(physical), at, n) < 0)
            return -EFAULT;
        at += n;
        address += n;
        len_bytes -= n;
    }
    return 0;
}

int assist_window(struct assist_frame *frame, uint64_t address, size_t len_bytes, void **ret)
{
    uint64_t physical;
    int r = piece(address, len_bytes) < len_bytes ? -EFAULT
                                                  : translate(frame, address, true, &physical);

    if (r < 0)
        return r;
    *ret = guest_memory_window(frame->assist->memory, gpa(physical), len_bytes, 1);
    return *ret ? 0 : -EFAULT;
}

int assist_peek(const struct assist *assist, const struct kvm_sregs *sregs, uint64_t address,
                void *to, size_t len_bytes)
{
    uint8_t *at = to;

    while (len_bytes > 0) {
        size_t n = piece(address, len_bytes);
        struct walk found = {0};

        if (walk(assist, sregs, address, false, false, &found) < 0 ||
            guest_memory_read(assist->memory, gpa(found.physical), at, n) < 0)
            return -EFAULT;
        at += n;
        address += n;
        len_bytes -= n;
    }
    return 0;
}
