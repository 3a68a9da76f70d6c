/* The guest kernel's command line: see command_line.h. */
#include "command_line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "layout.h"

/*
 * reboot=k, panic=-1: the guest leaves by the keyboard controller, at once.
 * no_timer_check, tsc=reliable: no PIT to check either against.
 * noreplace-smp: patching every LOCK prefix away is a tenth of a boot; vCPUs can be several.
 * rcu_expedited: grace periods by interrupt, not by waiting for ticks.
 * iommu=off: no bounce buffers for devices that reach low addresses only (64 MB from 4 GiB on).
 */
static const char common[] =
    "console=ttyS0 quiet reboot=k panic=-1 no_timer_check tsc=reliable "
    "noreplace-smp rcupdate.rcu_expedited=1 iommu=off 8250.nr_uarts=1 thp_anon=64K:always";

/*
 * Where KVM emulates supervisor mode: no instructions that its emulator lacks (the assist has some
 * of them, each at the price of an exit), AVX-512 off because its state would be copied at every
 * switch, and no walk that write-protects kernel text. Such a KVM also gives every guest the host's
 * TSC, whatever MSR_IA32_TSC is set to: for a restored guest all the time since its snapshot passes
 * at once, and RCU would print a page of stall warnings, at milliseconds a line.
 */
static const char emulated[] =
    " clearcpuid=smap,xsavec,xsaves,xsaveopt,cx16,avx512f,erms nofsgsbase "
    "rodata=off rcupdate.rcu_cpu_stall_suppress=1";

static const char root[] = " root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro "
                           "init=/sbin/mayfly-agent";

struct text {
    char *to;
    size_t size, used;
};

static void append(struct text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void append(struct text *text, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text->to + text->used, text->size - text->used, format, args);
    va_end(args);
    /* When it is full, used == size - 1 and the caller sees it. */
    text->used += (size_t)n < text->size - text->used ? (size_t)n : text->size - text->used - 1;
}

int command_line_build(const struct command_line_config *config, char *to, size_t size_bytes,
                       struct error *err)
{
    struct text text = {.to = to, .size = size_bytes};

    append(&text, "%s", common);
    if (config->tsc_khz)
        append(&text, " tsc_early_khz=%u", config->tsc_khz);
    if (config->emulates_supervisor)
        append(&text, "%s", emulated);
    for (unsigned i = 0; i < config->n_virtio; i++)
        append(&text, " virtio_mmio.device=4K@%#x:%u",
               LAYOUT_VIRTIO_MMIO + i * LAYOUT_VIRTIO_STRIDE, LAYOUT_IRQ_VIRTIO + i);
    if (config->pmem_root)
        append(&text, "%s", root);
    if (config->extra && config->extra[0])
        append(&text, " %s", config->extra);
    if (text.used + 1 >= size_bytes)
        return error_say(err, E2BIG, "kernel command line of more than %zu bytes", size_bytes - 1);
    return 0;
}
