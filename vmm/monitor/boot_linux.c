/* The 64-bit Linux boot protocol: see boot_linux.h. */
#include "boot_linux.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "layout.h"

enum {
    E820_RAM = 1,
    BOOT_FLAG = 0xaa55,
    HEADER_MAGIC = 0x53726448, /* "HdrS" */
    LOADER_UNDEFINED = 0xff,

    SELECTOR_CODE = 0x10,
    SELECTOR_DATA = 0x18,
    SELECTOR_TSS = 0x20,

    PAGE_PRESENT_WRITABLE = 0x3,
    PAGE_LARGE = 0x80,
};

static void add_e820(struct boot_params *params, uint64_t start, uint64_t end)
{
    if (end <= start)
        return;
    params->e820_table[params->e820_entries++] =
        (struct boot_e820_entry){.addr = start, .size = end - start, .type = E820_RAM};
}

static void fill_memory_map(struct boot_params *params, const struct guest_memory *memory)
{
    for (size_t i = 0; i < memory->n_regions; i++) {
        uint64_t start = memory->regions[i].start;
        uint64_t end = start + memory->regions[i].len_bytes;

        if (start == 0) { /* around the legacy hole */
            add_e820(params, 0, LAYOUT_LOW_END);
            start = LAYOUT_HIGH_START;
        }
        add_e820(params, start, end);
    }
}

/* The first GiB, mapped one to one with 2 MiB pages: the kernel makes its own tables at once. */
static int write_page_tables(const struct guest_memory *memory)
{
    uint64_t tables[3][512] = {{0}};

    tables[0][0] = htole64((LAYOUT_PAGE_TABLES + 0x1000) | PAGE_PRESENT_WRITABLE);
    tables[1][0] = htole64((LAYOUT_PAGE_TABLES + 0x2000) | PAGE_PRESENT_WRITABLE);
    for (uint64_t i = 0; i < 512; i++)
        tables[2][i] = htole64((i << 21) | PAGE_LARGE | PAGE_PRESENT_WRITABLE);
    return guest_memory_write(memory, gpa(LAYOUT_PAGE_TABLES), tables, sizeof(tables));
}

static int write_gdt(const struct guest_memory *memory)
{
    const uint64_t gdt[5] = {
        [SELECTOR_CODE / 8] = htole64(0x00af9b000000ffffu),
        [SELECTOR_DATA / 8] = htole64(0x00cf93000000ffffu),
        [SELECTOR_TSS / 8] = htole64(0x008f8b000000ffffu),
    };

    return guest_memory_write(memory, gpa(LAYOUT_GDT), gdt, sizeof(gdt));
}

int boot_linux_write_parameters(const struct guest_memory *memory, const char *command_line,
                                struct error *err)
{
    struct boot_params params = {0};
    size_t len = strlen(command_line);

    if (len >= LAYOUT_COMMAND_LINE_MAX)
        return error_say(err, E2BIG, "kernel command line of %zu bytes (Linux takes %u)", len,
                         LAYOUT_COMMAND_LINE_MAX - 1);
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags = LOADED_HIGH;
    params.hdr.kernel_alignment = 0x1000000;
    params.hdr.cmd_line_ptr = LAYOUT_COMMAND_LINE;
    params.hdr.cmdline_size = (uint32_t)len;
    fill_memory_map(&params, memory);
    if (guest_memory_write(memory, gpa(LAYOUT_BOOT_PARAMS), &params, sizeof(params)) < 0 ||
        guest_memory_write(memory, gpa(LAYOUT_COMMAND_LINE), command_line, len + 1) < 0 ||
        write_page_tables(memory) < 0 || write_gdt(memory) < 0)
        return error_say(err, EFAULT, "no guest memory below 1 MiB for the boot parameters");
    return 0;
}

void boot_linux_set_registers(gpa_t entry, struct kvm_sregs *sregs, struct kvm_regs *regs)
{
    const struct kvm_segment code = {.limit = 0xffffffff,
                                     .selector = SELECTOR_CODE,
                                     .type = 11, /* execute, read, accessed */
                                     .present = 1,
                                     .s = 1,
                                     .l = 1,
                                     .g = 1};
    const struct kvm_segment data = {.limit = 0xffffffff,
                                     .selector = SELECTOR_DATA,
                                     .type = 3, /* read, write, accessed */
                                     .present = 1,
                                     .s = 1,
                                     .db = 1,
                                     .g = 1};
    const struct kvm_segment tss = {
        .limit = 0xffff, .selector = SELECTOR_TSS, .type = 11 /* busy TSS */, .present = 1};

    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = tss;
    sregs->gdt.base = LAYOUT_GDT;
    sregs->gdt.limit = 5 * 8 - 1;
    sregs->idt.base = 0;
    sregs->idt.limit = 0;
    sregs->cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    sregs->cr3 = LAYOUT_PAGE_TABLES;
    sregs->cr4 = 0x20;   /* PAE */
    sregs->efer = 0x500; /* LME LMA */
    *regs = (struct kvm_regs){.rip = entry.value,
                              .rsi = LAYOUT_BOOT_PARAMS,
                              .rsp = LAYOUT_BOOT_STACK,
                              .rbp = LAYOUT_BOOT_STACK,
                              .rflags = 2};
}
