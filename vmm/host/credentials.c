/* Access keys of one's own making: see credentials.h. */
#include "credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"

enum { FILE_MAX_BYTES = 4096, SECRET_BYTES = 30, ID_RANDOM = 14 };

/* The value of "name = value" in @text. */
static bool take_value(const char *text, const char *name, char *to, size_t size)
{
    const char *at = strstr(text, name);

    if (!at)
        return false;
    at += strlen(name);
    at += strspn(at, " \t=");
    size_t len = strcspn(at, " \t\r\n");
    if (len == 0 || len >= size)
        return false;
    memcpy(to, at, len);
    to[len] = '\0';
    return true;
}

static int read_file(const char *path, struct credentials *to, struct error *err)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    int r = fd_read_file(path, FILE_MAX_BYTES, &data, &len, err);

    if (r < 0)
        return r;
    if (!take_value((const char *)data, "aws_access_key_id", to->id, sizeof(to->id)) ||
        !take_value((const char *)data, "aws_secret_access_key", to->secret, sizeof(to->secret)))
        return error_say(err, EBADMSG, "'%s' has no access key: delete it for a new one", path);
    return 0;
}

static void make(struct credentials *to)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    uint8_t secret[SECRET_BYTES];

    memcpy(to->id, "MAYFLY", 6);
    for (size_t i = 0; i < ID_RANDOM; i++)
        to->id[6 + i] = letters[randombytes_uniform(32)];
    to->id[6 + ID_RANDOM] = '\0';
    randombytes_buf(secret, sizeof(secret));
    sodium_bin2base64(to->secret, sizeof(to->secret), secret, sizeof(secret),
                      sodium_base64_VARIANT_ORIGINAL);
}

int credentials_take(const char *path, const char *region, struct credentials *ret_credentials,
                     struct error *err)
{
    struct credentials made;
    char text[512];
    int r = read_file(path, ret_credentials, err);

    if (r != -ENOENT)
        return r;
    if (sodium_init() < 0)
        return error_say(err, EIO, "libsodium cannot be used here");
    make(&made);
    AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(err, errno, "make '%s'", path);
    int len = snprintf(text, sizeof(text),
                       "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n"
                       "region = %s\n",
                       made.id, made.secret, region);
    r = fd_write_all(fd, text, (size_t)len);
    if (r < 0) {
        unlink(path);
        return error_set(err, -r, "write '%s'", path);
    }
    *ret_credentials = made;
    return 0;
}
