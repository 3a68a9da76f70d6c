/* <state>/recent: see recent_builds.h. Process: mayflyd. */
#include "recent_builds.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "images/image_file.h"

enum { LINE_BYTES = 21, FILE_BYTES_MAX = RECENT_MAX * LINE_BYTES };

static const char file_name[] = "recent";

static int open_state(const char *state, struct error *err)
{
    int fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? error_set(err, errno, "open the state directory '%s'", state) : fd;
}

int recent_builds_read(const char *state, struct recent_builds *ret_recent, struct error *err)
{
    struct recent_builds recent = {.n = 0};
    AUTO_FREE uint8_t *text = NULL;
    size_t len = 0;
    AUTO_FD directory = open_state(state, err);

    if (directory < 0)
        return directory;
    int r = file_read_small(directory, file_name, FILE_BYTES_MAX, &text, &len, err);
    if (r < 0 && r != -ENOENT)
        return r;
    for (const char *at = (const char *)text; at && *at >= '1' && *at <= '9';) {
        char *end;

        errno = 0;
        uint64_t id = strtoull(at, &end, 10);
        if (errno != 0 || *end != '\n' || recent.n == RECENT_MAX)
            break;
        recent.ids[recent.n++] = id;
        at = end + 1;
    }
    *ret_recent = recent;
    return 0;
}

int recent_builds_write(const char *state, const struct recent_builds *recent, struct error *err)
{
    char text[FILE_BYTES_MAX + 1];
    struct temp_file temp;
    size_t len = 0;
    AUTO_FD directory = open_state(state, err);

    if (directory < 0)
        return directory;
    for (size_t i = 0; i < recent->n && i < RECENT_MAX; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%" PRIu64 "\n", recent->ids[i]);
    int r = temp_file_create(&temp, directory, err);
    if (r < 0)
        return r;
    r = file_pwrite_all(temp.fd, text, len, 0);
    if (r < 0)
        r = error_set(err, -r, "note what was used last");
    else
        r = temp_file_publish(&temp, file_name, 0600, err);
    temp_file_done(&temp);
    return r;
}
