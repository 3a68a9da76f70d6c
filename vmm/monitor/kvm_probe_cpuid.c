/*
 * Does a guest see the CPUID that it was given? See kvm_probe.h. A VM of four pages: page tables
 * that map its first 2 MiB for user mode, and a dozen instructions at CPL 3, which store what CPUID
 * says and end in a triple fault, as there is no IDT.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "kvm_probe_vm.h"
#include "kvm_probe.h"

enum {
    PAGE = 4096,
    TABLES_AT = 0, /* PML4, PDPT, PD: a page each */
    CODE_AT = 3 * PAGE,
    RESULT_AT = CODE_AT + 256,
    PAGES = 4,
    MAX_ENTRIES = 256,
    MAX_EXITS = 1000, /* signals aside, one exit is all there should be */
    BRAND_LEAF = (int)0x80000002,
};

/* Intel SDM 3A 4.5: present, writable, user; in a PD also: a page of 2 MiB. */
enum { ENTRY = 7, ENTRY_2_MIB = ENTRY | 0x80 };

/* What the guest is to see as the first part of the processor's name. */
static const char brand[] = "mayfly cpu probe";

/* mov eax, 0x80000002; cpuid; mov [0x3100], eax; …104, ebx; …108, ecx; …10c, edx;
 * mov dword [0x3110], 1; hlt (a #GP at CPL 3) */
static const uint8_t code[] = {
    0xb8, 0x02, 0x00, 0x00, 0x80, 0x0f, 0xa2,             /* cpuid */
    0x89, 0x04, 0x25, 0x00, 0x31, 0x00, 0x00,             /* eax */
    0x89, 0x1c, 0x25, 0x04, 0x31, 0x00, 0x00,             /* ebx */
    0x89, 0x0c, 0x25, 0x08, 0x31, 0x00, 0x00,             /* ecx */
    0x89, 0x14, 0x25, 0x0c, 0x31, 0x00, 0x00,             /* edx */
    0xc7, 0x04, 0x25, 0x10, 0x31, 0x00, 0x00, 1, 0, 0, 0, /* done */
    0xf4,
};

/* Page tables that map the first 2 MiB, and the code. */
static void fill_memory(const struct probe_vm *vm)
{
    store_le64(vm->memory + TABLES_AT, (TABLES_AT + PAGE) | ENTRY);
    store_le64(vm->memory + TABLES_AT + PAGE, (TABLES_AT + 2 * PAGE) | ENTRY);
    store_le64(vm->memory + TABLES_AT + 2 * PAGE, ENTRY_2_MIB);
    memcpy(vm->memory + CODE_AT, code, sizeof(code));
}

/* The host's CPUID with another name. */
static int set_brand(int kvm_fd, const struct probe_vm *vm, struct error *err)
{
    AUTO_FREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + (MAX_ENTRIES + 1) * sizeof(cpuid->entries[0]));
    struct kvm_cpuid_entry2 *entry = NULL;

    if (!cpuid)
        return error_set(err, ENOMEM, "CPUID table");
    cpuid->nent = MAX_ENTRIES;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        return error_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == (uint32_t)BRAND_LEAF)
            entry = &cpuid->entries[i];
    if (!entry)
        entry = &cpuid->entries[cpuid->nent++];
    *entry = (struct kvm_cpuid_entry2){.function = (uint32_t)BRAND_LEAF};
    memcpy(&entry->eax, brand, 4);
    memcpy(&entry->ebx, brand + 4, 4);
    memcpy(&entry->ecx, brand + 8, 4);
    memcpy(&entry->edx, brand + 12, 4);
    return ioctl(vm->vcpu_fd, KVM_SET_CPUID2, cpuid) < 0 ? error_set(err, errno, "KVM_SET_CPUID2")
                                                         : 0;
}

/* 64-bit user mode, flat. */
static int set_entry(const struct probe_vm *vm, struct error *err)
{
    const struct kvm_segment data = {.limit = 0xffffffff,
                                     .selector = 0x13,
                                     .type = 3,
                                     .present = 1,
                                     .dpl = 3,
                                     .s = 1,
                                     .db = 1,
                                     .g = 1};
    const struct kvm_regs regs = {.rip = CODE_AT, .rsp = PAGES * PAGE, .rflags = 2};
    struct kvm_sregs sregs;

    if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return error_set(err, errno, "KVM_GET_SREGS");
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cs = data;
    sregs.cs.selector = 0xb;
    sregs.cs.type = 11;
    sregs.cs.db = 0;
    sregs.cs.l = 1;
    sregs.cr3 = TABLES_AT;
    sregs.cr4 |= 1u << 5;                 /* PAE */
    sregs.efer |= 1u << 8 | 1u << 10;     /* LME, LMA */
    sregs.cr0 |= 1u | 1u << 5 | 1u << 31; /* PE, NE, PG */
    if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return error_set(err, errno, "KVM_SET_SREGS");
    return 0;
}

static int run_to_end(const struct probe_vm *vm, struct error *err)
{
    for (int i = 0; i < MAX_EXITS; i++) {
        int r = ioctl(vm->vcpu_fd, KVM_RUN, 0);

        if (r < 0 && errno != EINTR && errno != EAGAIN)
            return error_set(err, errno, "KVM_RUN");
        if (r == 0)
            break;
    }
    if (load_le32(vm->memory + RESULT_AT + 16) != 1)
        return error_say(err, EIO, "KVM probe: user-mode code did not run (exit %u)",
                         vm->run->exit_reason);
    return 0;
}

int kvm_probe_cpuid(int kvm_fd, bool *ret_is_kept, struct error *err)
{
    __attribute__((cleanup(probe_vm_done))) struct probe_vm vm = PROBE_VM_NONE;
    int r = probe_vm_init(kvm_fd, PAGES * PAGE, &vm, err);

    if (r == 0) {
        fill_memory(&vm);
        r = set_brand(kvm_fd, &vm, err);
    }
    if (r == 0)
        r = set_entry(&vm, err);
    if (r == 0)
        r = run_to_end(&vm, err);
    if (r < 0)
        return r;
    *ret_is_kept = memcmp(vm.memory + RESULT_AT, brand, 16) == 0;
    return 0;
}
