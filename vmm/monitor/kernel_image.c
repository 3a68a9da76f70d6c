/* Loading a guest kernel: see kernel_image.h. */
#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_findDecompressedSize */
#include "kernel_image.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "layout.h"

enum { MAX_KERNEL_BYTES = 256 << 20, MAX_SEGMENTS = 64 };

/* The kernel's bytes: a private mapping of the file, or what zstd made of it. */
struct kernel_bytes {
    uint8_t *data;
    size_t len;
};

static void kernel_bytes_done(struct kernel_bytes *bytes)
{
    if (bytes->data)
        munmap(bytes->data, bytes->len);
}

static int decompress(const uint8_t *from, size_t from_len, struct kernel_bytes *ret,
                      struct error *err)
{
    unsigned long long raw = ZSTD_findDecompressedSize(from, from_len);

    if (raw == ZSTD_CONTENTSIZE_ERROR || raw == ZSTD_CONTENTSIZE_UNKNOWN || raw == 0 ||
        raw > MAX_KERNEL_BYTES)
        return error_say(err, ENOEXEC, "kernel: damaged zstd data (no usable content size)");
    uint8_t *to =
        mmap(NULL, (size_t)raw, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED)
        return error_set(err, errno, "kernel: room for %llu bytes", raw);
    size_t n = ZSTD_decompress(to, (size_t)raw, from, from_len);
    if (ZSTD_isError(n) || n != raw) {
        munmap(to, (size_t)raw);
        return error_say(err, ENOEXEC, "kernel: damaged zstd data (%s)",
                         ZSTD_isError(n) ? ZSTD_getErrorName(n) : "short");
    }
    *ret = (struct kernel_bytes){to, (size_t)raw};
    return 0;
}

/*
 * A file that shrinks while it is mapped would end this process by SIGBUS, so it is read, not
 * mapped: the copy costs a few milliseconds, once a boot.
 */
static int read_kernel(int fd, struct kernel_bytes *ret, struct error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "kernel: stat");
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(uint32_t) ||
        st.st_size > MAX_KERNEL_BYTES)
        return error_say(err, ENOEXEC, "kernel: not a kernel image (%lld bytes)",
                         (long long)st.st_size);
    size_t len = (size_t)st.st_size;
    uint8_t *data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return error_set(err, errno, "kernel: room for %zu bytes", len);
    int r = fd_pread_all(fd, data, len, 0);
    if (r < 0) {
        munmap(data, len);
        return error_set(err, -r, "kernel: read");
    }
    struct kernel_bytes file = {data, len};
    if (load_le32(data) != ZSTD_MAGICNUMBER) {
        *ret = file;
        return 0;
    }
    r = decompress(data, len, ret, err);
    kernel_bytes_done(&file);
    return r;
}

static int check_header(const Elf64_Ehdr *header, struct error *err)
{
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return error_say(err, ENOEXEC, "kernel: not an ELF file (a vmlinux is wanted)");
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != EM_X86_64)
        return error_say(err, ENOEXEC,
                         "kernel: built for another machine (ELF machine %u; x86-64 is %u)",
                         header->e_machine, EM_X86_64);
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return error_say(err, ENOEXEC, "kernel: ELF type %u is not executable", header->e_type);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
        header->e_phnum > MAX_SEGMENTS)
        return error_say(err, ENOEXEC, "kernel: unusable program headers (%u of %u bytes)",
                         header->e_phnum, header->e_phentsize);
    return 0;
}

static int load_segment(const struct kernel_bytes *kernel, const Elf64_Phdr *segment,
                        const struct guest_memory *memory, struct error *err)
{
    if (segment->p_filesz > segment->p_memsz ||
        !range_fits(segment->p_offset, segment->p_filesz, kernel->len))
        return error_say(err, ENOEXEC, "kernel: truncated (a segment ends beyond the file)");
    /* Below 1 MiB is what boot_linux.c fills. The rest of memsz is zero already. */
    if (segment->p_paddr < LAYOUT_HIGH_START ||
        guest_memory_window(memory, gpa(segment->p_paddr), segment->p_memsz, true) == NULL)
        return error_say(
            err, EFAULT, "kernel: %llu bytes at %#llx do not fit into the guest's memory",
            (unsigned long long)segment->p_memsz, (unsigned long long)segment->p_paddr);
    return guest_memory_write(memory, gpa(segment->p_paddr), kernel->data + segment->p_offset,
                              segment->p_filesz);
}

static int load_elf(const struct kernel_bytes *kernel, const struct guest_memory *memory,
                    gpa_t *ret_entry, struct error *err)
{
    Elf64_Ehdr header;
    bool loaded = false;

    if (kernel->len < sizeof(header))
        return error_say(err, ENOEXEC, "kernel: truncated");
    memcpy(&header, kernel->data, sizeof(header));
    int r = check_header(&header, err);
    if (r < 0)
        return r;
    if (!range_fits(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), kernel->len))
        return error_say(err, ENOEXEC, "kernel: truncated (program headers beyond the file)");
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;

        memcpy(&segment, kernel->data + header.e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
            continue;
        r = load_segment(kernel, &segment, memory, err);
        if (r < 0)
            return r;
        if (range_fits(header.e_entry - segment.p_paddr, 1, segment.p_memsz))
            loaded = true;
    }
    if (!loaded)
        return error_say(err, ENOEXEC, "kernel: its entry point %#llx is in no segment",
                         (unsigned long long)header.e_entry);
    *ret_entry = gpa(header.e_entry);
    return 0;
}

int kernel_image_load(int fd, const struct guest_memory *memory, gpa_t *ret_entry,
                      struct error *err)
{
    __attribute__((cleanup(kernel_bytes_done))) struct kernel_bytes kernel = {0};
    int r = read_kernel(fd, &kernel, err);

    return r < 0 ? r : load_elf(&kernel, memory, ret_entry, err);
}
