/*
 * XSAVE, XSAVEOPT and XRSTOR in standard format for the assist: the state goes between the vCPU
 * (KVM_GET_XSAVE / KVM_SET_XSAVE, itself in standard format) and the guest's buffer.
 * Source: Intel SDM 1 §13.4 (layout), §13.7 XSAVE, §13.8 XRSTOR.
 */
#include "assist_internal.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/ioctl.h>

#include "common/bytes.h"

enum {
    COMPONENT_X87 = 0,
    COMPONENT_SSE = 1,
    COMPONENTS = 63,
    OFFSET_MXCSR = 24, /* MXCSR and its mask, 8 bytes */
    OFFSET_HEADER = 512,
    HEADER_BYTES = 64,
    MASK_SSE_OR_AVX = 6,
};

struct extent {
    uint32_t offset, len;
};

/* Where a component lies; the CPU's own layout, which KVM's buffer has too. */
static struct extent component_extent(unsigned component)
{
    unsigned eax, ebx, ecx, edx;

    if (component == COMPONENT_SSE)
        return (struct extent){160, 256};
    if (!__get_cpuid_count(0xd, component, &eax, &ebx, &ecx, &edx))
        return (struct extent){0, 0};
    return (struct extent){ebx, eax};
}

typedef int copy_function(struct assist_frame *frame, uint8_t *state, struct extent part);

static int to_guest(struct assist_frame *frame, uint8_t *state, struct extent part)
{
    return assist_write(frame, frame->instruction.address + part.offset, state + part.offset,
                        part.len);
}

static int from_guest(struct assist_frame *frame, uint8_t *state, struct extent part)
{
    return assist_read(frame, frame->instruction.address + part.offset, state + part.offset,
                       part.len);
}

/* Copies what @mask names. x87's 160 bytes have MXCSR in the middle, which is not its own. */
static int copy_components(struct assist_frame *frame, uint8_t *state, uint64_t mask,
                           copy_function *copy)
{
    int r = 0;

    if (mask & 1) {
        r = copy(frame, state, (struct extent){0, OFFSET_MXCSR});
        if (r == 0)
            r = copy(frame, state, (struct extent){32, 128});
    }
    for (unsigned i = COMPONENT_SSE; i < COMPONENTS && r == 0; i++) {
        if (!(mask >> i & 1))
            continue;
        struct extent part = component_extent(i);
        if (!range_fits(part.offset, part.len, frame->assist->xsave_size))
            return -ENOTSUP;
        r = copy(frame, state, part);
    }
    return r;
}

/* The components that instruction and XCR0 name together. */
static int requested(struct assist_frame *frame, uint64_t *ret_mask)
{
    struct kvm_xcrs xcrs;

    if (frame->instruction.address & 63)
        return assist_inject(frame->assist, VECTOR_GP, true, 0) < 0 ? -EIO : -EAGAIN;
    if (ioctl(frame->assist->vcpu_fd, KVM_GET_XCRS, &xcrs) < 0 || xcrs.nr_xcrs < 1)
        return -EIO;
    *ret_mask = ((frame->regs.rax & 0xffffffff) | frame->regs.rdx << 32) & xcrs.xcrs[0].value;
    return 0;
}

int assist_xsave(struct assist_frame *frame)
{
    uint8_t *state = (uint8_t *)frame->assist->xsave;
    uint64_t mask, header;
    int r = requested(frame, &mask);

    if (r < 0)
        return r;
    if (ioctl(frame->assist->vcpu_fd, KVM_GET_XSAVE, state) < 0)
        return -errno;
    uint64_t in_use = load_le64(state + OFFSET_HEADER);
    uint64_t address = frame->instruction.address + OFFSET_HEADER;
    r = assist_read(frame, address, &header, sizeof(header));
    if (r == 0 && (mask & MASK_SSE_OR_AVX))
        r = to_guest(frame, state, (struct extent){OFFSET_MXCSR, 8});
    if (r == 0)
        r = copy_components(frame, state, mask, to_guest);
    if (r < 0)
        return r;
    header = (header & ~mask) | (in_use & mask);
    return assist_write(frame, address, &header, sizeof(header));
}

int assist_xrstor(struct assist_frame *frame)
{
    uint8_t *state = (uint8_t *)frame->assist->xsave;
    uint8_t header[HEADER_BYTES];
    uint64_t mask;
    int r = requested(frame, &mask);

    if (r < 0)
        return r;
    r = assist_read(frame, frame->instruction.address + OFFSET_HEADER, header, sizeof(header));
    if (r < 0)
        return r;
    uint64_t present = load_le64(header);
    if (load_le64(header + 8) != 0) /* XCOMP_BV: the compacted format is never enumerated */
        return assist_inject(frame->assist, VECTOR_GP, true, 0) < 0 ? -EIO : -EAGAIN;
    if (ioctl(frame->assist->vcpu_fd, KVM_GET_XSAVE, state) < 0)
        return -errno;
    if (mask & MASK_SSE_OR_AVX)
        r = from_guest(frame, state, (struct extent){OFFSET_MXCSR, 8});
    if (r == 0)
        r = copy_components(frame, state, mask & present, from_guest);
    if (r < 0)
        return r;
    /* A component that is asked for and not present goes to its initial state: bit clear. */
    store_le64(state + OFFSET_HEADER,
               (load_le64(state + OFFSET_HEADER) & ~mask) | (present & mask));
    return ioctl(frame->assist->vcpu_fd, KVM_SET_XSAVE, state) < 0 ? -errno : 0;
}
