/* Is this content what its kind says, and for a CPU we run? */
#ifndef MAYFLY_IMAGES_IMAGE_CONTENT_H
#define MAYFLY_IMAGES_IMAGE_CONTENT_H

#include "common/error.h"
#include "images/image_store.h"

#define IMAGE_ARCHITECTURE "x86_64" /* the only one there is */

enum { ELF_IDENT_BYTES = 20 };

/*
 * image_content_elf_machine - the architecture of an ELF file by its first ELF_IDENT_BYTES: as
 * uname names it, "machine N" for what we do not know; NULL if it is no ELF file.
 * @buffer: where the answer may be put.
 */
const char *image_content_elf_machine(const uint8_t *ident, char buffer[32]);

/*
 * image_content_check - a root image must be EROFS, whole and uncompressed; a kernel an ELF64
 * executable for x86-64. -EBADMSG says what was found instead. @what names the file.
 */
int image_content_check(int fd, enum image_kind kind, const char *what, struct error *err);

#endif
