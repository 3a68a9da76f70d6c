/*
 * The emulation assist, instruction by instruction, on a real vCPU whose registers and memory the
 * test fills in: the assist only sees state, so this runs on any KVM.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "monitor/assist/assist.h"

enum {
    MEMORY = 8 << 20,
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT = 0x4000,
    CODE = 0x10000,
    DATA = 0x20000,
    STACK = 0x30000,
    HANDLER = 0x11000,
    IDT = 0x12000,
    READ_ONLY = 0x21000,
    ABSENT = 0x22000,
    ENTRY = 0x13000, /* LSTAR */
};

struct rig {
    int kvm, vm, vcpu;
    uint8_t *ram;
    struct guest_memory memory;
    struct assist *assist;
};

static void put64(struct rig *rig, uint64_t at, uint64_t value)
{
    store_le64(rig->ram + at, value);
}

/* The first 2 MiB by 4 KiB pages, the rest by 2 MiB pages; one page read-only, one absent. */
static void map_memory(struct rig *rig)
{
    put64(rig, PML4, PDPT | 3);
    put64(rig, PDPT, PD | 3);
    put64(rig, PD, PT | 3);
    for (uint64_t i = 1; i < 4; i++)
        put64(rig, PD + 8 * i, i << 21 | 0x83);
    for (uint64_t i = 0; i < 512; i++)
        put64(rig, PT + 8 * i, i << 12 | 3);
    put64(rig, PT + 8 * (READ_ONLY >> 12), READ_ONLY | 1);
    put64(rig, PT + 8 * (ABSENT >> 12), 0);
}

static int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct kvm_sregs sregs;

    *state = rig;
    rig->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (rig->kvm < 0)
        return 0; /* each test then skips */
    rig->vm = ioctl(rig->kvm, KVM_CREATE_VM, 0);
    rig->ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(
        guest_memory_add(&rig->memory,
                         (struct guest_region){.start = 0, .len_bytes = MEMORY, .host = rig->ram}),
        0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY,
                                                 .userspace_addr = (uintptr_t)rig->ram};
    assert_int_equal(ioctl(rig->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    rig->vcpu = ioctl(rig->vm, KVM_CREATE_VCPU, 0);
    assert_true(rig->vcpu >= 0);
    map_memory(rig);
    struct {
        struct kvm_cpuid2 header;
        struct kvm_cpuid_entry2 entries[128];
    } cpuid = {.header.nent = 128};
    assert_int_equal(ioctl(rig->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_CPUID2, &cpuid), 0);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_SREGS, &sregs), 0);
    const struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x80050033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620 | 1 << 18; /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    sregs.efer = 0x501;
    sregs.idt.base = IDT;
    sregs.idt.limit = 0xfff;
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_SREGS, &sregs), 0);
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0].value = 7};
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_XCRS, &xcrs), 0);
    struct error err;
    assert_int_equal(assist_new(rig->vcpu, &rig->memory, &rig->assist, &err), 0);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;

    if (rig->kvm >= 0) {
        assist_free(rig->assist);
        close(rig->vcpu);
        close(rig->vm);
        munmap(rig->ram, MEMORY);
        close(rig->kvm);
    }
    free(rig);
    return 0;
}

static struct rig *rig_of(void **state)
{
    struct rig *rig = *state;

    if (rig->kvm < 0) {
        print_message("skipped: no /dev/kvm\n");
        skip();
    }
    return rig;
}

/* Puts @code at CODE with @regs, has the assist execute it, and returns what it returned. */
static int execute(struct rig *rig, const void *code, size_t len, struct kvm_regs *regs,
                   struct error *err)
{
    memset(rig->ram + CODE, 0x90, 64);
    memcpy(rig->ram + CODE, code, len);
    regs->rip = CODE;
    regs->rflags |= 2;
    if (regs->rsp == 0)
        regs->rsp = STACK;
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_REGS, regs), 0);
    int r = assist_on_internal_error(rig->assist, err);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_REGS, regs), 0);
    return r;
}

#define EXECUTE(rig, regs, ...)                                                                    \
    do {                                                                                           \
        static const uint8_t code_[] = {__VA_ARGS__};                                              \
        struct error err_ = {0};                                                                   \
        if (execute(rig, code_, sizeof(code_), regs, &err_) != 0)                                  \
            fail_msg("%s", err_.text);                                                             \
        assert_int_equal((regs)->rip, CODE + sizeof(code_));                                       \
    } while (0)

static struct kvm_vcpu_events events_of(struct rig *rig)
{
    struct kvm_vcpu_events events;

    assert_int_equal(ioctl(rig->vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
    return events;
}

static void popcnt_counts_and_sets_flags(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rcx = 0xf0f0f0f0f0f0f0f0, .rax = ~0ull, .rflags = 0x8d5};

    EXECUTE(rig, &regs, 0xf3, 0x48, 0x0f, 0xb8, 0xc1); /* popcnt rax, rcx */
    assert_int_equal(regs.rax, 32);
    assert_int_equal(regs.rflags & 0x8d5, 0);
    regs = (struct kvm_regs){.rcx = 0xffffffff00000000, .rax = ~0ull};
    EXECUTE(rig, &regs, 0xf3, 0x0f, 0xb8, 0xc1); /* popcnt eax, ecx: 32 bits, zero-extended */
    assert_int_equal(regs.rax, 0);
    assert_int_equal(regs.rflags & 0x40, 0x40);
    regs = (struct kvm_regs){.r9 = DATA, .r10 = 2};
    put64(rig, DATA + 16 + 8, 7);
    EXECUTE(rig, &regs, 0xf3, 0x4f, 0x0f, 0xb8, 0x5c, 0xd1, 0x08); /* popcnt r11, [r9+r10*8+8] */
    assert_int_equal(regs.r11, 3);
}

static void movbe_swaps_both_ways(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rbx = DATA, .rax = 0x1122334455667788};

    EXECUTE(rig, &regs, 0x48, 0x0f, 0x38, 0xf1, 0x03); /* movbe [rbx], rax */
    assert_int_equal(load_le64(rig->ram + DATA), 0x8877665544332211);
    EXECUTE(rig, &regs, 0x0f, 0x38, 0xf0, 0x13); /* movbe edx, [rbx] */
    assert_int_equal(regs.rdx, 0x11223344);
}

static void cmpxchg16b_compares_and_exchanges(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rbx = 5, .rcx = 6, .rax = 1, .rdx = 2, .rsi = DATA};

    put64(rig, DATA, 1);
    put64(rig, DATA + 8, 2);
    EXECUTE(rig, &regs, 0xf0, 0x48, 0x0f, 0xc7, 0x0e); /* lock cmpxchg16b [rsi] */
    assert_int_equal(regs.rflags & 0x40, 0x40);
    assert_int_equal(load_le64(rig->ram + DATA), 5);
    assert_int_equal(load_le64(rig->ram + DATA + 8), 6);
    EXECUTE(rig, &regs, 0xf0, 0x48, 0x0f, 0xc7, 0x0e); /* now it differs */
    assert_int_equal(regs.rflags & 0x40, 0);
    assert_int_equal(regs.rax, 5);
    assert_int_equal(regs.rdx, 6);
}

static void int3_injects_a_breakpoint(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {0};

    EXECUTE(rig, &regs, 0xcc);
    /* KVM does not report a software exception as injected, but says which it was. */
    assert_int_equal(events_of(rig).exception.nr, 3);
}

static void xsave_and_xrstor_carry_the_state(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rdi = DATA, .rax = 7};
    struct kvm_xsave xsave;
    uint8_t *bytes = (uint8_t *)&xsave;

    assert_int_equal(ioctl(rig->vcpu, KVM_GET_XSAVE, &xsave), 0);
    memset(bytes + 160, 0xab, 256); /* XMM0-15 */
    store_le64(bytes + 512, 3);
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_XSAVE, &xsave), 0);
    memset(rig->ram + DATA, 0, 4096);
    EXECUTE(rig, &regs, 0x48, 0x0f, 0xae, 0x27); /* xsave64 [rdi] */
    assert_int_equal(rig->ram[DATA + 160], 0xab);
    assert_int_equal(rig->ram[DATA + 160 + 255], 0xab);
    assert_int_equal(load_le64(rig->ram + DATA + 512) & 2, 2);

    memset(rig->ram + DATA + 160, 0xcd, 256);
    regs.rdi = DATA;
    regs.rax = 7;
    EXECUTE(rig, &regs, 0x48, 0x0f, 0xae, 0x2f); /* xrstor64 [rdi] */
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_XSAVE, &xsave), 0);
    assert_int_equal(bytes[160], 0xcd);
    /* Asked for, absent in the image: back to the initial state. */
    put64(rig, DATA + 512, 0);
    EXECUTE(rig, &regs, 0x48, 0x0f, 0xae, 0x2f);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_XSAVE, &xsave), 0);
    assert_int_equal(load_le64(bytes + 512) & 2, 0);
}

static void misaligned_xsave_is_a_protection_fault(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rdi = DATA + 8, .rax = 7};
    static const uint8_t code[] = {0x48, 0x0f, 0xae, 0x27};
    struct error err;

    assert_int_equal(execute(rig, code, sizeof(code), &regs, &err), 0);
    assert_int_equal(regs.rip, CODE);
    assert_int_equal(events_of(rig).exception.nr, 13);
}

static void absent_and_read_only_pages_fault_into_the_guest(void **state)
{
    struct rig *rig = rig_of(state);
    static const uint8_t store[] = {0x48, 0x0f, 0x38, 0xf1, 0x03}; /* movbe [rbx], rax */
    struct kvm_regs regs = {.rbx = ABSENT + 5};
    struct kvm_sregs sregs;
    struct error err;

    assert_int_equal(execute(rig, store, sizeof(store), &regs, &err), 0);
    assert_int_equal(regs.rip, CODE); /* the guest retries it */
    assert_int_equal(events_of(rig).exception.nr, 14);
    assert_int_equal(events_of(rig).exception.error_code, 2);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(sregs.cr2, ABSENT + 5);

    regs = (struct kvm_regs){.rbx = READ_ONLY};
    assert_int_equal(execute(rig, store, sizeof(store), &regs, &err), 0);
    assert_int_equal(events_of(rig).exception.error_code, 3);
}

static void writing_marks_the_page_dirty(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rbx = DATA, .rax = 1};

    EXECUTE(rig, &regs, 0x48, 0x0f, 0x38, 0xf1, 0x03);
    assert_int_equal(load_le64(rig->ram + PT + 8 * (DATA >> 12)) & 0x60, 0x60);
}

static void unknown_instruction_names_itself(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {0};
    static const uint8_t ud2[] = {0x0f, 0x0b};
    struct error err = {0};

    assert_int_equal(execute(rig, ud2, sizeof(ud2), &regs, &err), -95 /* ENOTSUP */);
    assert_non_null(strstr(err.text, "0f 0b"));
    assert_non_null(strstr(err.text, "0x10000"));
    assert_int_equal(regs.rip, CODE);
}

/* Page tables that point outside memory must not reach host memory. */
static void wild_page_tables_are_refused(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rbx = DATA, .rax = 1};
    static const uint8_t store[] = {0x48, 0x0f, 0x38, 0xf1, 0x03};
    struct error err = {0};

    put64(rig, PT + 8 * (DATA >> 12), 0x000ffffffffff003ull);
    assert_int_equal(execute(rig, store, sizeof(store), &regs, &err), -14 /* EFAULT */);
}

static void set_msr(struct rig *rig, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msr = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};

    assert_int_equal(ioctl(rig->vcpu, KVM_SET_MSRS, &msr), 1);
}

static void put_frame(struct rig *rig, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp)
{
    const uint64_t frame[6] = {0x14 /* error code */, rip, cs, flags, rsp, 0x2b};

    memcpy(rig->ram + STACK, frame, sizeof(frame));
}

static void arm_handler(struct rig *rig)
{
    struct error err;

    store_le16(rig->ram + IDT + 14 * 16, HANDLER & 0xffff);
    store_le16(rig->ram + IDT + 14 * 16 + 6, HANDLER >> 16);
    set_msr(rig, 0xc0000081, (uint64_t)0x10 << 32);
    set_msr(rig, 0xc0000082, ENTRY);
    set_msr(rig, 0xc0000084, 0x300); /* SFMASK: TF, IF */
    assert_int_equal(assist_on_io(rig->assist, &err), 0);
}

static void fault_at_lstar_becomes_a_system_call(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {
        .rip = HANDLER, .rsp = STACK, .rflags = 2, .r11 = 0x13044 /* RF, IOPL, ZF, PF */};
    struct kvm_sregs sregs;
    struct error err;

    arm_handler(rig);
    put_frame(rig, ENTRY, 0x33, 0x10346, 0x7000);
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_REGS, &regs), 0);
    assert_int_equal(assist_on_debug(rig->assist, &err), 0);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(regs.rip, ENTRY);
    assert_int_equal(regs.rsp, 0x7000);
    assert_int_equal(regs.rflags, 0x46);
    assert_int_equal(regs.r11, 0x246); /* what user mode may set, interrupts on */
    assert_int_equal(sregs.cs.selector, 0x10);
    assert_int_equal(sregs.cs.dpl, 0);
    assert_int_equal(sregs.ss.selector, 0x18);
    assert_int_equal(assist_get_counters(rig->assist).system_calls, 1);
}

static void other_fault_goes_on_behind_the_breakpoint(void **state)
{
    struct rig *rig = rig_of(state);
    struct kvm_regs regs = {.rip = HANDLER, .rsp = STACK, .rflags = 2};
    static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
    struct error err;

    arm_handler(rig);
    memcpy(rig->ram + HANDLER, endbr64, sizeof(endbr64));
    put_frame(rig, ENTRY, 0x10 /* ring 0 */, 2, 0x7000);
    assert_int_equal(ioctl(rig->vcpu, KVM_SET_REGS, &regs), 0);
    assert_int_equal(assist_on_debug(rig->assist, &err), 0);
    assert_int_equal(ioctl(rig->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(regs.rip, HANDLER + 4);
    assert_int_equal(assist_get_counters(rig->assist).page_faults, 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(popcnt_counts_and_sets_flags),
        CASE(movbe_swaps_both_ways),
        CASE(cmpxchg16b_compares_and_exchanges),
        CASE(int3_injects_a_breakpoint),
        CASE(xsave_and_xrstor_carry_the_state),
        CASE(misaligned_xsave_is_a_protection_fault),
        CASE(absent_and_read_only_pages_fault_into_the_guest),
        CASE(writing_marks_the_page_dirty),
        CASE(unknown_instruction_names_itself),
        CASE(wild_page_tables_are_refused),
        CASE(fault_at_lstar_becomes_a_system_call),
        CASE(other_fault_goes_on_behind_the_breakpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
