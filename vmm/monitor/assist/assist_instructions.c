/*
 * The instructions that KVM's emulator lacks and a Linux kernel uses in supervisor mode. Each does
 * what the Intel SDM (volume 2) or AMD APM (volume 3) says of it, for 64-bit supervisor code.
 * Adding one: a function, a line in find(), a case in tests/unit/test_assist.c.
 */
#include "assist_internal.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "common/bytes.h"

#define MSR_STAR 0xc0000081u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

enum {

    FLAG_ZERO = 1 << 6,
    FLAG_ARITHMETIC = 0x8d5, /* OF SF ZF AF PF CF */
    FLAG_ALIGNMENT = 1 << 18,
    /* What SYSRET and IRET to user mode may set: everything but RF, VM and reserved bits. */
    FLAGS_RETURN = 0x3c7fd7,
    FLAG_ALWAYS = 2,
    REX_W = 8,
};

typedef int execute_function(struct assist_frame *frame);

static int do_int3(struct assist_frame *frame)
{
    /* A trap: the handler sees the address after it. */
    frame->regs.rip += frame->instruction.len;
    frame->instruction.len = 0;
    return assist_inject(frame->assist, VECTOR_BP, false, 0);
}

static int do_nothing(struct assist_frame *frame)
{
    (void)frame;
    return 0;
}

static uint64_t truncate_to_operand(const struct instruction *in, uint64_t value)
{
    if (in->rex & REX_W)
        return value;
    return in->operand_16 ? (uint16_t)value : (uint32_t)value;
}

static size_t operand_bytes(const struct instruction *in)
{
    return in->rex & REX_W ? 8 : in->operand_16 ? 2 : 4;
}

/* As the hardware does: a 16-bit result keeps the rest of the register, a 32-bit one clears it. */
static void set_register(struct assist_frame *frame, unsigned n, uint64_t value)
{
    const struct instruction *in = &frame->instruction;
    uint64_t *reg = assist_register(&frame->regs, n);

    value = truncate_to_operand(in, value);
    *reg = operand_bytes(in) == 2 ? (*reg & ~0xffffull) | value : value;
}

static int do_popcnt(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    uint8_t raw[8] = {0};
    uint64_t value = *assist_register(&frame->regs, in->rm);

    if (in->is_memory) {
        int r = assist_read(frame, in->address, raw, operand_bytes(in));
        if (r < 0)
            return r;
        value = load_le64(raw);
    }
    value = truncate_to_operand(in, value);
    set_register(frame, in->reg, (uint64_t)__builtin_popcountll(value));
    frame->regs.rflags &= ~(uint64_t)FLAG_ARITHMETIC;
    if (value == 0)
        frame->regs.rflags |= FLAG_ZERO;
    return 0;
}

static int do_movbe_load(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    uint8_t raw[8] = {0};
    size_t n = operand_bytes(in);
    int r = assist_read(frame, in->address, raw, n);

    if (r == 0)
        set_register(frame, in->reg, __builtin_bswap64(load_le64(raw)) >> (64 - 8 * n));
    return r;
}

static int do_movbe_store(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    size_t n = operand_bytes(in);
    uint8_t raw[8];

    store_le64(raw, __builtin_bswap64(*assist_register(&frame->regs, in->reg)) >> (64 - 8 * n));
    return assist_write(frame, in->address, raw, n);
}

static int do_cmpxchg16b(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    struct kvm_regs *regs = &frame->regs;
    void *window;

    if (in->address & 15)
        return assist_inject(frame->assist, VECTOR_GP, true, 0) < 0 ? -EIO : -EAGAIN;
    int r = assist_window(frame, in->address, 16, &window);
    if (r < 0)
        return r;
    /* Another vCPU may race: the comparison and the store must be one locked operation here too. */
    uint64_t low = regs->rax, high = regs->rdx;
    uint8_t equal;
    __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                     : "=q"(equal), "+m"(*(unsigned __int128 *)window), "+a"(low), "+d"(high)
                     : "b"(regs->rbx), "c"(regs->rcx)
                     : "cc", "memory");
    regs->rax = low;
    regs->rdx = high;
    regs->rflags &= ~(uint64_t)FLAG_ZERO;
    if (equal)
        regs->rflags |= FLAG_ZERO;
    return 0;
}

static int do_fs_gs_base(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    struct kvm_segment *segment = (in->modrm >> 3) & 1 ? &frame->sregs.gs : &frame->sregs.fs;

    if (((in->modrm >> 3) & 7) < 2) {
        set_register(frame, in->rm, segment->base);
    } else {
        segment->base = truncate_to_operand(in, *assist_register(&frame->regs, in->rm));
        frame->sregs_changed = true;
    }
    return 0;
}

static int do_clac(struct assist_frame *frame)
{
    frame->regs.rflags &= ~(uint64_t)FLAG_ALIGNMENT;
    return 0;
}

static int do_stac(struct assist_frame *frame)
{
    frame->regs.rflags |= FLAG_ALIGNMENT;
    return 0;
}

static int do_swapgs(struct assist_frame *frame)
{
    uint64_t other;
    int r = assist_get_msr(frame->assist, MSR_KERNEL_GS_BASE, &other);

    if (r == 0)
        r = assist_set_msr(frame->assist, MSR_KERNEL_GS_BASE, frame->sregs.gs.base);
    frame->sregs.gs.base = other;
    frame->sregs_changed = true;
    return r;
}

static int do_xgetbv(struct assist_frame *frame)
{
    struct kvm_xcrs xcrs;

    if ((uint32_t)frame->regs.rcx != 0 || ioctl(frame->assist->vcpu_fd, KVM_GET_XCRS, &xcrs) < 0 ||
        xcrs.nr_xcrs < 1)
        return -ENOTSUP;
    frame->regs.rax = (uint32_t)xcrs.xcrs[0].value;
    frame->regs.rdx = xcrs.xcrs[0].value >> 32;
    return 0;
}

static int do_rdpid(struct assist_frame *frame)
{
    uint64_t value;
    int r = assist_get_msr(frame->assist, MSR_TSC_AUX, &value);

    if (r == 0)
        *assist_register(&frame->regs, frame->instruction.rm) = (uint32_t)value;
    return r;
}

static void set_user_segments(struct kvm_sregs *sregs, uint16_t cs, uint16_t ss)
{
    unsigned level = cs & 3u;

    sregs->cs = (struct kvm_segment){.selector = cs,
                                     .limit = 0xffffffff,
                                     .type = 11,
                                     .present = 1,
                                     .dpl = (uint8_t)level,
                                     .s = 1,
                                     .l = 1,
                                     .g = 1};
    sregs->ss = (struct kvm_segment){.selector = ss,
                                     .limit = 0xffffffff,
                                     .type = 3,
                                     .present = 1,
                                     .dpl = (uint8_t)level,
                                     .db = 1,
                                     .s = 1,
                                     .g = 1,
                                     .unusable = (ss & ~3u) == 0};
}

static int do_iretq(struct assist_frame *frame)
{
    uint8_t raw[40];
    int r = assist_read(frame, frame->regs.rsp, raw, sizeof(raw));

    if (r < 0)
        return r;
    frame->regs.rip = load_le64(raw);
    frame->regs.rflags = (load_le64(raw + 16) & FLAGS_RETURN) | FLAG_ALWAYS;
    frame->regs.rsp = load_le64(raw + 24);
    set_user_segments(&frame->sregs, load_le16(raw + 8), load_le16(raw + 32));
    frame->sregs_changed = true;
    frame->instruction.len = 0;
    return 0;
}

static int do_sysretq(struct assist_frame *frame)
{
    uint64_t star;
    int r = assist_get_msr(frame->assist, MSR_STAR, &star);

    if (r < 0)
        return r;
    uint16_t base = (uint16_t)(star >> 48);
    frame->regs.rip = frame->regs.rcx;
    frame->regs.rflags = (frame->regs.r11 & FLAGS_RETURN) | FLAG_ALWAYS;
    set_user_segments(&frame->sregs, (uint16_t)((base + 16) | 3), (uint16_t)((base + 8) | 3));
    frame->sregs_changed = true;
    frame->instruction.len = 0;
    return 0;
}

static execute_function *find_0fae(const struct instruction *in)
{
    unsigned extension = (in->modrm >> 3) & 7u;

    if (!in->is_memory)
        return in->repeat == 0xf3 && extension < 4 ? do_fs_gs_base : NULL;
    if (in->repeat || in->operand_16)
        return NULL;
    if (extension == 4 || extension == 6)
        return assist_xsave;
    return extension == 5 ? assist_xrstor : NULL;
}

static execute_function *find_0f01(const struct instruction *in)
{
    switch (in->modrm) {
    case 0xca:
        return do_clac;
    case 0xcb:
        return do_stac;
    case 0xd0:
        return do_xgetbv;
    case 0xf8:
        return do_swapgs;
    default:
        return NULL;
    }
}

static execute_function *find_0fc7(const struct instruction *in)
{
    unsigned extension = (in->modrm >> 3) & 7u;

    if (in->is_memory && extension == 1 && (in->rex & REX_W))
        return do_cmpxchg16b;
    return !in->is_memory && extension == 7 && in->repeat == 0xf3 ? do_rdpid : NULL;
}

static execute_function *find(const struct instruction *in)
{
    switch (in->opcode) {
    case 0xcc:
        return do_int3;
    case 0x9b:
        return do_nothing; /* fwait: supervisor code leaves no x87 exception pending */
    case 0xcf:
        return in->rex & REX_W ? do_iretq : NULL;
    case 0x0f01:
        return find_0f01(in);
    case 0x0f07:
        return in->rex & REX_W ? do_sysretq : NULL;
    case 0x0fae:
        return find_0fae(in);
    case 0x0fb8:
        return in->repeat == 0xf3 ? do_popcnt : NULL;
    case 0x0fc7:
        return find_0fc7(in);
    case 0x38f0:
        return in->is_memory && !in->repeat ? do_movbe_load : NULL;
    case 0x38f1:
        return in->is_memory && !in->repeat ? do_movbe_store : NULL;
    default:
        return NULL;
    }
}

int assist_execute(struct assist_frame *frame)
{
    execute_function *execute = find(&frame->instruction);

    return execute ? execute(frame) : -ENOTSUP;
}
