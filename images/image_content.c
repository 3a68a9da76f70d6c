/*
 * What images may hold: see image_content.h. Looks at the outermost structure only; the guest
 * kernel and the monitor's ELF loader check the rest when they use it.
 * Source: Linux fs/erofs/erofs_fs.h (super block), ELF-64 object file format.
 */
#include "images/image_content.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/fd.h"

enum {
    EROFS_SUPER_OFFSET = 1024,
    EROFS_SUPER_BYTES = 128,
    EROFS_BLOCK_BITS = 12, /* blocks of the guest's page size: what DAX needs */
    BZIMAGE_MAGIC_OFFSET = 0x202,
};
#define EROFS_MAGIC UINT32_C(0xE0F5E1E2)
/* LZ4_0PADDING, COMPR_CFGS, BIG_PCLUSTER, ZTAILPACKING: a compressed image cannot be mapped. */
#define EROFS_COMPRESSED UINT32_C(0x00000013)

const char *image_content_elf_machine(const uint8_t *ident, char buffer[32])
{
    static const struct {
        uint16_t machine;
        const char *name;
    } known[] = {
        {EM_X86_64, IMAGE_ARCHITECTURE},
        {EM_AARCH64, "aarch64"},
        {EM_386, "i386"},
        {EM_ARM, "arm"},
        {EM_RISCV, "riscv"},
        {EM_PPC64, "ppc64"},
        {EM_S390, "s390x"},
        {EM_MIPS, "mips"},
        {EM_LOONGARCH, "loongarch64"},
    };
    if (memcmp(ident, ELFMAG, SELFMAG) != 0)
        return NULL;
    uint16_t machine = load_le16(ident + 18);
    if (ident[EI_DATA] == ELFDATA2MSB)
        machine = (uint16_t)(machine << 8 | machine >> 8);
    if (machine == EM_X86_64 && ident[EI_CLASS] != ELFCLASS64)
        return "x32";
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (known[i].machine == machine)
            return known[i].name;
    snprintf(buffer, 32, "machine %u", machine);
    return buffer;
}

static int check_erofs(int fd, const char *what, struct error *err)
{
    uint8_t super[EROFS_SUPER_BYTES];
    struct stat st;
    int r = fd_pread_all(fd, super, sizeof(super), EROFS_SUPER_OFFSET);

    if (r < 0 && r != -ENODATA)
        return error_set(err, -r, "read '%s'", what);
    if (r == -ENODATA || load_le32(super) != EROFS_MAGIC)
        return error_say(err, EBADMSG, "'%s' is not an EROFS file system (no magic at byte 1024)",
                         what);
    if (super[12] != EROFS_BLOCK_BITS)
        return error_say(err, EBADMSG, "'%s' has EROFS blocks of 2^%u bytes; guests map 4 KiB ones",
                         what, super[12]);
    if (load_le32(super + 80) & EROFS_COMPRESSED)
        return error_say(err, EBADMSG,
                         "'%s' is a compressed EROFS file system; guests map files directly, make "
                         "it without -z",
                         what);
    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "read '%s'", what);
    uint64_t bytes = (uint64_t)load_le32(super + 36) << EROFS_BLOCK_BITS;
    if ((uint64_t)st.st_size < bytes)
        return error_say(err, EBADMSG, "'%s' is truncated: %lld bytes, its super block says %llu",
                         what, (long long)st.st_size, (unsigned long long)bytes);
    return 0;
}

/* Kernels come in wrappings that a person may well try; name them. */
static const char *kernel_wrapping(int fd, const uint8_t *start)
{
    uint8_t magic[4];

    if (load_le32(start) == 0xFD2FB528)
        return "zstd data: decompress it first (zstd -d)";
    if (start[0] == 0x1F && start[1] == 0x8B)
        return "gzip data: decompress it first (gzip -d)";
    if (fd_pread_all(fd, magic, sizeof(magic), BZIMAGE_MAGIC_OFFSET) == 0 &&
        memcmp(magic, "HdrS", 4) == 0)
        return "a bzImage: give the vmlinux of the same build";
    return "neither ELF nor anything known";
}

static int check_kernel(int fd, const char *what, struct error *err)
{
    uint8_t ident[ELF_IDENT_BYTES];
    char buffer[32];
    int r = fd_pread_all(fd, ident, sizeof(ident), 0);

    if (r < 0 && r != -ENODATA)
        return error_set(err, -r, "read '%s'", what);
    if (r == -ENODATA)
        return error_say(err, EBADMSG, "'%s' is not an ELF kernel: it is too short", what);
    const char *machine = image_content_elf_machine(ident, buffer);
    if (!machine)
        return error_say(err, EBADMSG, "'%s' is not an ELF kernel; it is %s", what,
                         kernel_wrapping(fd, ident));
    if (strcmp(machine, IMAGE_ARCHITECTURE) != 0)
        return error_say(err, EBADMSG,
                         "'%s' is a kernel for %s; this host runs " IMAGE_ARCHITECTURE " only",
                         what, machine);
    uint16_t type = load_le16(ident + 16);
    if (type != ET_EXEC && type != ET_DYN)
        return error_say(err, EBADMSG, "'%s' is an ELF file but no executable (type %u)", what,
                         type);
    return 0;
}

int image_content_check(int fd, enum image_kind kind, const char *what, struct error *err)
{
    return kind == IMAGE_KERNEL ? check_kernel(fd, what, err) : check_erofs(fd, what, err);
}
