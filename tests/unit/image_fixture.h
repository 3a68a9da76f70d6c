/* What the image tests share: temporary directories and content that passes for an image. */
#ifndef MAYFLY_TESTS_IMAGE_FIXTURE_H
#define MAYFLY_TESTS_IMAGE_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

/* fixture_directory - a new directory in @path (of 64 bytes); removed by fixture_remove(). */
void fixture_directory(char path[64]);
void fixture_remove(const char *path);

/* fixture_root_image - @len_bytes (4 KiB at least) that look like EROFS, half of it compressible.
 */
uint8_t *fixture_root_image(size_t len_bytes, unsigned seed);

/* fixture_write - a file with this content. */
void fixture_write(const char *path, const void *data, size_t len_bytes);

#endif
