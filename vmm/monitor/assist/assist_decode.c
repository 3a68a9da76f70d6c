/* Decoding for the assist: prefixes, opcode, ModRM (Intel SDM 2A, chapter 2). 64-bit code only. */
#include "assist_internal.h"

#include <string.h>

#include "common/bytes.h"

enum { REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1 };

uint64_t *assist_register(struct kvm_regs *regs, unsigned n)
{
    __u64 *const by_number[16] = {&regs->rax, &regs->rcx, &regs->rdx, &regs->rbx,
                                  &regs->rsp, &regs->rbp, &regs->rsi, &regs->rdi,
                                  &regs->r8,  &regs->r9,  &regs->r10, &regs->r11,
                                  &regs->r12, &regs->r13, &regs->r14, &regs->r15};

    _Static_assert(sizeof(__u64) == sizeof(uint64_t), "the same type by another name");
    return (uint64_t *)by_number[n & 15];
}

/* Bytes that could not be fetched are zero: they decode to nothing known. */
static void fetch(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;
    uint64_t rip = frame->regs.rip;
    size_t in_page = 4096 - (size_t)(rip & 4095);
    size_t first = in_page < INSTRUCTION_MAX ? in_page : INSTRUCTION_MAX;

    memset(in, 0, sizeof(*in));
    assist_peek(frame->assist, &frame->sregs, rip, in->bytes, first);
    if (first < INSTRUCTION_MAX)
        assist_peek(frame->assist, &frame->sregs, rip + first, in->bytes + first,
                    INSTRUCTION_MAX - first);
}

static size_t decode_prefixes(struct instruction *in)
{
    size_t at = 0;

    for (; at < 8; at++) {
        uint8_t byte = in->bytes[at];

        if (byte == 0xf2 || byte == 0xf3)
            in->repeat = byte;
        else if (byte == 0x66)
            in->operand_16 = true;
        else if (byte == 0xf0)
            in->lock = true;
        else if (byte == 0x64 || byte == 0x65)
            in->segment = byte;
        else if (byte != 0x2e && byte != 0x3e && byte != 0x26 && byte != 0x36)
            break;
    }
    if ((in->bytes[at] & 0xf0) == 0x40)
        in->rex = in->bytes[at++];
    return at;
}

static bool has_modrm(const struct instruction *in)
{
    switch (in->opcode) {
    case 0xcc:   /* int3 */
    case 0x9b:   /* fwait */
    case 0xcf:   /* iret */
    case 0x0f07: /* sysret */
        return false;
    default:
        return true;
    }
}

/* The base and index of a SIB byte; *ret_len counts the SIB and its displacement. */
static uint64_t sib_address(const struct instruction *in, struct kvm_regs *regs, const uint8_t *at,
                            unsigned mod, size_t *ret_len)
{
    unsigned base = (at[0] & 7u), index = ((at[0] >> 3) & 7u) | ((in->rex & REX_X) ? 8u : 0);
    uint64_t address = 0;

    *ret_len = 1;
    if (base == 5 && mod == 0) {
        address = (uint64_t)(int64_t)(int32_t)load_le32(at + 1);
        *ret_len += 4;
    } else {
        address = *assist_register(regs, base | ((in->rex & REX_B) ? 8u : 0));
    }
    if (index != 4)
        address += *assist_register(regs, index) << (at[0] >> 6);
    return address;
}

/* Returns the length of ModRM, SIB and displacement. */
static size_t decode_operand(struct assist_frame *frame, size_t at)
{
    struct instruction *in = &frame->instruction;
    uint8_t bytes[INSTRUCTION_MAX + 8] = {0}; /* so that a SIB at the very end reads zeros */
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7u;
    size_t len = 1, sib_len;
    bool rip_relative = false;

    memcpy(bytes, in->bytes, sizeof(in->bytes));
    in->reg = ((in->modrm >> 3) & 7u) | ((in->rex & REX_R) ? 8u : 0);
    in->rm = rm | ((in->rex & REX_B) ? 8u : 0);
    in->is_memory = mod != 3;
    if (!in->is_memory)
        return len;
    if (rm == 4) {
        in->address = sib_address(in, &frame->regs, bytes + at + len, mod, &sib_len);
        len += sib_len;
    } else if (rm == 5 && mod == 0) {
        in->address = (uint64_t)(int64_t)(int32_t)load_le32(bytes + at + len);
        len += 4;
        rip_relative = true;
    } else {
        in->address = *assist_register(&frame->regs, in->rm);
    }
    if (mod == 1) {
        in->address += (uint64_t)(int64_t)(int8_t)bytes[at + len];
        len += 1;
    } else if (mod == 2) {
        in->address += (uint64_t)(int64_t)(int32_t)load_le32(bytes + at + len);
        len += 4;
    }
    if (rip_relative) /* none of the forms decoded here carries an immediate */
        in->address += frame->regs.rip + at + len;
    if (in->segment == 0x64)
        in->address += frame->sregs.fs.base;
    else if (in->segment == 0x65)
        in->address += frame->sregs.gs.base;
    return len;
}

bool assist_decode(struct assist_frame *frame)
{
    struct instruction *in = &frame->instruction;

    fetch(frame);
    size_t at = decode_prefixes(in);
    if (at + 3 > INSTRUCTION_MAX)
        return false;
    in->opcode = in->bytes[at++];
    if (in->opcode == 0x0f) {
        in->opcode = (uint16_t)(0x0f00 | in->bytes[at++]);
        if (in->opcode == 0x0f38)
            in->opcode = (uint16_t)(0x3800 | in->bytes[at++]);
    }
    if (has_modrm(in)) {
        in->modrm = in->bytes[at];
        at += decode_operand(frame, at);
    }
    in->len = at;
    return at <= INSTRUCTION_MAX;
}
