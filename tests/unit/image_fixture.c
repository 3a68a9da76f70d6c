/* Shared by the image tests: see image_fixture.h. Failures abort: a test without it means nothing.
 */
#include "tests/unit/image_fixture.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_file.h"

void fixture_directory(char path[64])
{
    snprintf(path, 64, "/tmp/mayfly-test-XXXXXX");
    char *made = mkdtemp(path);
    assert(made);
}

void fixture_remove(const char *path)
{
    int r = file_remove_tree(path, NULL);
    assert(r == 0);
}

uint8_t *fixture_root_image(size_t len_bytes, unsigned seed)
{
    uint8_t *image = calloc(1, len_bytes);
    uint32_t state = seed * 2654435761u + 1;

    assert(image && len_bytes >= 4096);
    for (size_t i = 0; i < len_bytes; i++) {
        state = state * 1664525u + 1013904223u;
        image[i] = i & 4096 ? (uint8_t)(state >> 24) : (uint8_t)(i >> 6);
    }
    memset(image + 1024, 0, 128);
    store_le32(image + 1024, 0xE0F5E1E2);
    image[1024 + 12] = 12;
    store_le32(image + 1024 + 36, (uint32_t)(len_bytes / 4096));
    return image;
}

void fixture_write(const char *path, const void *data, size_t len_bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int r = fd < 0 ? -1 : fd_write_all(fd, data, len_bytes);

    assert(r == 0);
    close(fd);
}
