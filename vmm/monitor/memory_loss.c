/*
 * Guest memory whose file was cut short: see memory_loss.h. Process: mayfly-vmm. The signal handler
 * reads only what was set before it was installed, and calls nothing that takes a lock.
 */
#include "memory_loss.h"

#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>

/* Process-wide, as signal handlers are. Written while no other thread touches guest memory. */
static struct {
    const struct machine_memory *memory; /* borrowed; NULL: nothing is watched */
    memory_lost *lost;
    void *opaque;
} watched;

/* --- texts, without printf() ----------------------------------------------------------------- */

struct line {
    char *text;
    size_t used;
};

static void add_text(struct line *line, const char *text)
{
    while (*text && line->used < MEMORY_LOSS_TEXT_BYTES - 1)
        line->text[line->used++] = *text++;
    line->text[line->used] = '\0';
}

static void add_number(struct line *line, uint64_t number, unsigned base)
{
    char digits[21];
    size_t at = sizeof(digits) - 1;

    digits[at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    add_text(line, digits + at);
}

static bool describe_file(const struct memory_file *file, const char *what, const char *advice,
                          char *ret_text)
{
    struct line line = {.text = ret_text};
    struct stat st;

    if (file->bytes == 0 || fstat(file->fd, &st) < 0 || st.st_size >= (off_t)file->bytes)
        return false;
    add_text(&line, what);
    add_text(&line, " of this VM was truncated at ");
    add_number(&line, (uint64_t)st.st_size, 10);
    add_text(&line, " of ");
    add_number(&line, file->bytes, 10);
    add_text(&line, " bytes: ");
    add_text(&line, advice);
    return true;
}

bool memory_loss_describe(const struct machine_memory *memory,
                          char ret_text[MEMORY_LOSS_TEXT_BYTES])
{
    if (describe_file(&memory->file, "the memory file",
                      "restore again ('mayfly snapshot verify' checks the rest)", ret_text))
        return true;
    for (size_t i = 0; i < memory->n_pmem; i++)
        if (describe_file(&memory->pmem[i].file, "the root image",
                          "check it with 'mayfly image verify'", ret_text))
            return true;
    return false;
}

/* --- the signal ------------------------------------------------------------------------------ */

static bool is_within(uintptr_t address, const uint8_t *start, uint64_t len_bytes)
{
    return address >= (uintptr_t)start && address - (uintptr_t)start < len_bytes;
}

static bool is_guest_memory(const struct machine_memory *memory, uintptr_t address)
{
    if (is_within(address, memory->ram, memory->ram_bytes))
        return true;
    for (size_t i = 0; i < memory->n_pmem; i++)
        if (is_within(address, memory->pmem[i].host, memory->pmem[i].len_bytes))
            return true;
    return false;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const uintptr_t address = (uintptr_t)info->si_addr;
    char text[MEMORY_LOSS_TEXT_BYTES];
    struct line line = {.text = text};

    (void)context;
    if (!watched.memory || !is_guest_memory(watched.memory, address)) {
        signal(number, SIG_DFL); /* not ours: happens again on return, and kills */
        return;
    }
    if (!memory_loss_describe(watched.memory, text)) { /* not cut short: a disk or memory error */
        add_text(&line, "a page of guest memory cannot be had: the disk behind it failed or is "
                        "full (host address 0x");
        add_number(&line, address, 16);
        add_text(&line, ")");
    }
    watched.lost(watched.opaque, text);
}

void memory_loss_watch(const struct machine_memory *memory, memory_lost *lost, void *opaque)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    watched.memory = memory;
    watched.lost = lost;
    watched.opaque = opaque;
    sigaction(SIGBUS, &action, NULL);
}

void memory_loss_unwatch(void)
{
    signal(SIGBUS, SIG_DFL);
    watched.memory = NULL;
}
