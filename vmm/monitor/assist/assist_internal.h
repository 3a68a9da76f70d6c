/* Shared by the assist's files, and by nobody else. */
#ifndef MAYFLY_MONITOR_ASSIST_INTERNAL_H
#define MAYFLY_MONITOR_ASSIST_INTERNAL_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "assist.h"

enum {
    INSTRUCTION_MAX = 15,
    VECTOR_BP = 3,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    FAULT_PRESENT = 1 << 0, /* page-fault error code bits, Intel SDM 3A §4.7 */
    FAULT_WRITE = 1 << 1,
};

struct assist {
    int vcpu_fd;                       /* borrowed */
    const struct guest_memory *memory; /* borrowed */
    uint64_t breakpoint;               /* guest-virtual address armed, 0: none */
    unsigned ios_until_check;          /* see assist_on_io() */
    bool stepping;                     /* one instruction is being stepped at the breakpoint */
    struct assist_counters counters;
    size_t xsave_size;       /* of the buffer below, bytes */
    struct kvm_xsave *xsave; /* owned */
};

/* One instruction, decoded as far as its operands. */
struct instruction {
    uint8_t bytes[INSTRUCTION_MAX];
    size_t len;      /* of the whole instruction, once decoded */
    uint8_t rex;     /* 0x40.. or 0 */
    uint8_t repeat;  /* 0xf2, 0xf3 or 0 */
    bool operand_16; /* 0x66 */
    bool lock;
    uint8_t segment; /* 0x64 FS, 0x65 GS, 0 else */
    uint16_t opcode; /* one byte, 0x0f00 | byte, or 0x3800 | byte for 0f 38 */
    uint8_t modrm;
    unsigned reg, rm; /* with REX applied; rm is a register number if mod == 3 */
    bool is_memory;   /* else mod == 3 */
    uint64_t address; /* linear, if is_memory */
};

/* The state one instruction works on: read at the exit, written back when it is done. */
struct assist_frame {
    struct assist *assist;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct instruction instruction;
    bool sregs_changed;
    bool faulted; /* a #PF was injected instead: leave everything else as it was */
};

/* assist_register - the n-th general register, n in 0..15. */
uint64_t *assist_register(struct kvm_regs *regs, unsigned n);

/* assist_decode - at RIP; false if the bytes cannot be read or make no known form. */
bool assist_decode(struct assist_frame *frame);

/*
 * Guest-virtual memory, by the guest's own four-level tables, accessed and dirty bits set.
 * On a missing or forbidden page they inject #PF into the guest, set frame->faulted and return
 * -EAGAIN; -EFAULT when the tables point outside memory.
 */
int assist_read(struct assist_frame *frame, uint64_t address, void *to, size_t len_bytes);
int assist_write(struct assist_frame *frame, uint64_t address, const void *from, size_t len_bytes);
/* assist_window - host address of @len_bytes (not across a page) for an atomic operation. */
int assist_window(struct assist_frame *frame, uint64_t address, size_t len_bytes, void **ret);
/* assist_peek - as assist_read() for a kernel structure, but never faults. -EFAULT. */
int assist_peek(const struct assist *assist, const struct kvm_sregs *sregs, uint64_t address,
                void *to, size_t len_bytes);

/* assist_inject - an exception with the state as it is. */
int assist_inject(struct assist *assist, uint8_t vector, bool has_code, uint32_t code);

int assist_get_msr(const struct assist *assist, uint32_t index, uint64_t *ret_value);
int assist_set_msr(const struct assist *assist, uint32_t index, uint64_t value);

/* assist_execute - the instruction in @frame. 0, -ENOTSUP if unknown, else as assist_read(). */
int assist_execute(struct assist_frame *frame);

/* XSAVE and XSAVEOPT / XRSTOR, standard format (Intel SDM 1 §13.7, §13.8). */
int assist_xsave(struct assist_frame *frame);
int assist_xrstor(struct assist_frame *frame);

#endif
