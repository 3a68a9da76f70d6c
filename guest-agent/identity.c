/* Host name and boot id. Process: mayfly-agent; input: the host's. */
#include "guest-agent/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <unistd.h>

#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
/* In a tmpfs that is there at boot; the name goes as soon as the file is mounted. */
#define HIDDEN_FILE AGENT_TASK_DIR "/.boot_id"

int identity_open(struct failure *failure)
{
    int fd = open(HIDDEN_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    int result = 0;

    if (fd < 0)
        return failure_set(failure, errno, "make a file for the boot id");
    if (mount(HIDDEN_FILE, BOOT_ID_FILE, NULL, MS_BIND, NULL) < 0)
        result = failure_set(failure, errno, "lay a file over " BOOT_ID_FILE);
    unlink(HIDDEN_FILE);
    if (result == 0)
        return fd;
    close(fd);
    return result;
}

int identity_set_boot_id(int boot_id_fd, const uint8_t *id, struct failure *failure)
{
    uint8_t bytes[IDENTITY_BOOT_ID_BYTES];
    char text[2 * IDENTITY_BOOT_ID_BYTES + 6];
    size_t used = 0;

    if (boot_id_fd < 0)
        return failure_say(failure, ENOENT, "the boot id cannot be changed");
    if (id)
        memcpy(bytes, id, sizeof(bytes));
    /* Never waits: the host's entropy was added before, or there is none to wait for. */
    else if (getrandom(bytes, sizeof(bytes), GRND_INSECURE) != (ssize_t)sizeof(bytes))
        return failure_set(failure, errno, "get random bytes");
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40); /* RFC 9562 section 5.4 */
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bool has_dash = i == 4 || i == 6 || i == 8 || i == 10;

        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%02x", has_dash ? "-" : "",
                                 (unsigned)bytes[i]);
    }
    text[used++] = '\n';
    if (pwrite(boot_id_fd, text, used, 0) != (ssize_t)used)
        return failure_set(failure, errno, "write the boot id");
    return 0;
}

int identity_set_hostname(const char *name, struct failure *failure)
{
    size_t len = strlen(name);

    if (len == 0)
        return 0;
    if (len > IDENTITY_HOSTNAME_MAX)
        return failure_say(failure, EINVAL, "a host name of over %d characters",
                           IDENTITY_HOSTNAME_MAX);
    if (sethostname(name, len) < 0)
        return failure_set(failure, errno, "set the host name");
    return 0;
}
