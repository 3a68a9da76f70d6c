/*
 * The emulation assist's entry points, and system calls: see assist.h.
 *
 * On such a KVM a `syscall` of ring 3 arrives at LSTAR with CPL still 3, so the fetch there faults
 * and the guest's page-fault handler runs. A hardware breakpoint on that handler shows it to us:
 * a fault *at LSTAR from ring 3* is a system call, and the machine is put into the state that
 * SYSCALL defines (Intel SDM 2B "SYSCALL"); any other is a page fault and goes on.
 */
#include "assist_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"

#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_SYSCALL_MASK 0xc0000084u

enum {
    IDT_ENTRY_BYTES = 16,
    FRAME_BYTES = 48, /* error code, RIP, CS, RFLAGS, RSP, SS */
    FLAG_RESUME = 1 << 16,
    FLAG_INTERRUPT = 1 << 9,
    FLAG_DIRECTION = 1 << 10,
    FLAG_ALWAYS = 2,
    /* What user mode can put into RFLAGS: CF PF AF ZF SF TF IF DF OF NT AC ID. */
    FLAGS_USER = 0x244fd5,
    /* Until the guest has set up its IDT, every exit looks; afterwards every so many. */
    IOS_BETWEEN_CHECKS = 1024,
    DR7_FIXED = 0x400,
    DR7_BREAK_0 = 0x2 | 0x1,
};

int assist_new(int vcpu_fd, const struct guest_memory *memory, struct assist **ret_assist,
               struct error *err)
{
    struct assist *assist = calloc(1, sizeof(*assist));

    if (!assist)
        return error_set(err, ENOMEM, "emulation assist");
    assist->vcpu_fd = vcpu_fd;
    assist->memory = memory;
    assist->xsave_size = sizeof(struct kvm_xsave);
    assist->xsave = calloc(1, assist->xsave_size);
    if (!assist->xsave) {
        assist_free(assist);
        return error_set(err, ENOMEM, "emulation assist");
    }
    *ret_assist = assist;
    return 0;
}

void assist_free(struct assist *assist)
{
    if (!assist)
        return;
    free(assist->xsave);
    free(assist);
}

struct assist_counters assist_get_counters(const struct assist *assist)
{
    return assist->counters;
}

struct one_msr {
    struct kvm_msrs header;
    struct kvm_msr_entry entry;
};

int assist_get_msr(const struct assist *assist, uint32_t index, uint64_t *ret_value)
{
    struct one_msr msr = {.header.nmsrs = 1, .entry.index = index};

    if (ioctl(assist->vcpu_fd, KVM_GET_MSRS, &msr) != 1)
        return -EIO;
    *ret_value = msr.entry.data;
    return 0;
}

int assist_set_msr(const struct assist *assist, uint32_t index, uint64_t value)
{
    struct one_msr msr = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};

    return ioctl(assist->vcpu_fd, KVM_SET_MSRS, &msr) == 1 ? 0 : -EIO;
}

int assist_inject(struct assist *assist, uint8_t vector, bool has_code, uint32_t code)
{
    struct kvm_vcpu_events events;

    if (ioctl(assist->vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        return -errno;
    events.exception.injected = 1;
    events.exception.nr = vector;
    events.exception.has_error_code = has_code;
    events.exception.error_code = code;
    return ioctl(assist->vcpu_fd, KVM_SET_VCPU_EVENTS, &events) < 0 ? -errno : 0;
}

static int load_frame(struct assist *assist, struct assist_frame *frame)
{
    memset(frame, 0, sizeof(*frame));
    frame->assist = assist;
    if (ioctl(assist->vcpu_fd, KVM_GET_REGS, &frame->regs) < 0 ||
        ioctl(assist->vcpu_fd, KVM_GET_SREGS, &frame->sregs) < 0)
        return -errno;
    return 0;
}

static int store_frame(struct assist_frame *frame)
{
    int fd = frame->assist->vcpu_fd;

    if (frame->sregs_changed && ioctl(fd, KVM_SET_SREGS, &frame->sregs) < 0)
        return -errno;
    return ioctl(fd, KVM_SET_REGS, &frame->regs) < 0 ? -errno : 0;
}

static int unknown_instruction(const struct assist_frame *frame, struct error *err)
{
    char bytes[INSTRUCTION_MAX * 3 + 1] = "";

    for (size_t i = 0; i < INSTRUCTION_MAX; i++)
        snprintf(bytes + 3 * i, 4, "%02x ", frame->instruction.bytes[i]);
    return error_say(err, ENOTSUP,
                     "guest at %#llx (CPL %u): KVM cannot emulate the instruction %s, and the "
                     "emulation assist does not know it",
                     (unsigned long long)frame->regs.rip, frame->sregs.cs.dpl, bytes);
}

int assist_on_internal_error(struct assist *assist, struct error *err)
{
    struct assist_frame frame;
    int r = load_frame(assist, &frame);

    if (r < 0)
        return error_set(err, -r, "read vCPU state");
    if (!assist_decode(&frame))
        return unknown_instruction(&frame, err);
    r = assist_execute(&frame);
    if (r == -EAGAIN) /* the guest got an exception instead */
        return 0;
    if (r == -ENOTSUP)
        return unknown_instruction(&frame, err);
    if (r < 0)
        return error_set(err, -r, "guest at %#llx: emulation assist",
                         (unsigned long long)frame.regs.rip);
    frame.regs.rip += frame.instruction.len;
    assist->counters.instructions++;
    r = store_frame(&frame);
    return r < 0 ? error_set(err, -r, "write vCPU state") : 0;
}

static int set_debug(struct assist *assist, uint64_t breakpoint, bool step)
{
    struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE};

    if (step) {
        debug.control |= KVM_GUESTDBG_SINGLESTEP;
    } else {
        debug.control |= KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[0] = breakpoint;
        debug.arch.debugreg[7] = DR7_FIXED | DR7_BREAK_0;
    }
    return ioctl(assist->vcpu_fd, KVM_SET_GUEST_DEBUG, &debug) < 0 ? -errno : 0;
}

/* The page-fault handler the guest's IDT names; 0 while there is none. */
static uint64_t page_fault_handler(const struct assist *assist, const struct kvm_sregs *sregs)
{
    uint8_t gate[IDT_ENTRY_BYTES];

    if (sregs->idt.limit < (VECTOR_PF + 1) * IDT_ENTRY_BYTES - 1 ||
        assist_peek(assist, sregs, sregs->idt.base + VECTOR_PF * IDT_ENTRY_BYTES, gate,
                    sizeof(gate)) < 0)
        return 0;
    return load_le16(gate) | (uint64_t)load_le16(gate + 6) << 16 |
           (uint64_t)load_le32(gate + 8) << 32;
}

static int arm_at(struct assist *assist, uint64_t handler, struct error *err)
{
    if (handler == 0 || handler == assist->breakpoint)
        return 0;
    int r = set_debug(assist, handler, false);
    if (r < 0)
        return error_set(err, -r, "KVM_SET_GUEST_DEBUG at %#llx", (unsigned long long)handler);
    assist->breakpoint = handler;
    return 0;
}

static int arm(struct assist *assist, struct error *err)
{
    struct kvm_sregs sregs;
    uint64_t entry = 0;

    if (ioctl(assist->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return error_set(err, errno, "read vCPU state");
    if (assist_get_msr(assist, MSR_LSTAR, &entry) < 0 || entry == 0)
        return 0;
    return arm_at(assist, page_fault_handler(assist, &sregs), err);
}

int assist_on_io(struct assist *assist, struct error *err)
{
    if (assist->breakpoint != 0 && assist->ios_until_check-- > 0)
        return 0;
    assist->ios_until_check = IOS_BETWEEN_CHECKS;
    return arm(assist, err);
}

int assist_restored(struct assist *assist, const struct vcpu_state *state, bool alone,
                    struct error *err)
{
    assist->breakpoint = 0;
    assist->stepping = false;
    return alone ? 0 : arm_at(assist, page_fault_handler(assist, &state->sregs), err);
}

/*
 * SYSCALL, as it should have happened. The host has done its first half: RCX, R11 and masked flags,
 * which the fault then pushed. But a process that jumps to LSTAR by itself looks the same, with an
 * R11 of its own choice, and the kernel will load that into RFLAGS: so only what user mode can set
 * anyway passes, with interrupts on as they always are there.
 */
static int enter_system_call(struct assist_frame *frame, const uint8_t *pushed, uint64_t entry)
{
    uint64_t star, mask, flags = load_le64(pushed + 24);

    if (assist_get_msr(frame->assist, MSR_STAR, &star) < 0 ||
        assist_get_msr(frame->assist, MSR_SYSCALL_MASK, &mask) < 0)
        return -EIO;
    uint16_t selector = (uint16_t)((star >> 32) & 0xfffc);
    frame->sregs.cs.selector = selector;
    frame->sregs.cs.dpl = 0;
    frame->sregs.cs.type = 11;
    frame->sregs.ss.selector = (uint16_t)(selector + 8);
    frame->sregs.ss.dpl = 0;
    frame->sregs.ss.type = 3;
    frame->sregs.ss.s = 1;
    frame->sregs.ss.present = 1;
    frame->sregs.ss.unusable = 0;
    frame->sregs_changed = true;
    frame->regs.rip = entry;
    frame->regs.rsp = load_le64(pushed + 32);
    frame->regs.r11 = (frame->regs.r11 & FLAGS_USER) | FLAG_INTERRUPT | FLAG_ALWAYS;
    frame->regs.rflags = (flags & ~mask & ~(uint64_t)FLAG_RESUME) | FLAG_ALWAYS;
    frame->assist->counters.system_calls++;
    return store_frame(frame);
}

/* Does the handler's first instruction by hand if it is one of those that handlers start with, so
 * that the breakpoint under it does not fire again. False: it must be stepped. */
static bool skip_first_instruction(struct assist_frame *frame)
{
    static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa}, nop3[] = {0x0f, 0x1f, 0x00},
                         clac[] = {0x0f, 0x01, 0xca}, cld[] = {0xfc};
    uint8_t code[4];

    if (assist_peek(frame->assist, &frame->sregs, frame->regs.rip, code, sizeof(code)) < 0)
        return false;
    if (memcmp(code, endbr64, sizeof(endbr64)) == 0) {
        frame->regs.rip += sizeof(endbr64);
    } else if (memcmp(code, nop3, sizeof(nop3)) == 0) {
        frame->regs.rip += sizeof(nop3);
    } else if (memcmp(code, clac, sizeof(clac)) == 0) {
        frame->regs.rip += sizeof(clac);
        frame->regs.rflags &= ~(1ull << 18);
    } else if (memcmp(code, cld, sizeof(cld)) == 0) {
        frame->regs.rip += sizeof(cld);
        frame->regs.rflags &= ~(uint64_t)FLAG_DIRECTION;
    } else {
        return false;
    }
    return true;
}

static int pass_page_fault(struct assist_frame *frame)
{
    struct assist *assist = frame->assist;

    assist->counters.page_faults++;
    if (skip_first_instruction(frame))
        return ioctl(assist->vcpu_fd, KVM_SET_REGS, &frame->regs) < 0 ? -errno : 0;
    assist->stepping = true;
    return set_debug(assist, 0, true);
}

int assist_on_debug(struct assist *assist, struct error *err)
{
    struct assist_frame frame;
    uint8_t pushed[FRAME_BYTES];
    uint64_t entry;

    if (assist->stepping) {
        assist->stepping = false;
        int r = set_debug(assist, assist->breakpoint, false);
        return r < 0 ? error_set(err, -r, "KVM_SET_GUEST_DEBUG") : 0;
    }
    int r = load_frame(assist, &frame);
    if (r == 0 && assist_peek(assist, &frame.sregs, frame.regs.rsp, pushed, sizeof(pushed)) == 0 &&
        assist_get_msr(assist, MSR_LSTAR, &entry) == 0 && load_le64(pushed + 8) == entry &&
        (pushed[16] & 3) == 3)
        r = enter_system_call(&frame, pushed, entry);
    else if (r == 0)
        r = pass_page_fault(&frame);
    return r < 0 ? error_set(err, -r, "guest page-fault handler: emulation assist") : 0;
}
