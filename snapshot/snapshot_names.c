/*
 * names/<name>.json: {"version": 1, "id": "…"}. Part of the snapshot store (snapshot_internal.h).
 * The files may have been altered; an id from one becomes part of a path, so its form is checked.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/json_fields.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "snapshot/snapshot_internal.h"

enum { NAME_FILE_BYTES_MAX = 4096, NAME_VERSION = 1 };

static void file_name(const char *name, char file[SNAPSHOT_FILE_NAME_BYTES])
{
    snprintf(file, SNAPSHOT_FILE_NAME_BYTES, "%.*s" SNAPSHOT_NAME_SUFFIX, SNAPSHOT_NAME_MAX, name);
}

int snapshot_name_read(const struct snapshot_store *store, const char *name,
                       char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err)
{
    char file[SNAPSHOT_FILE_NAME_BYTES], id[SNAPSHOT_ID_HEX + 1];
    AUTO_FREE uint8_t *text = NULL;
    size_t len = 0;
    int64_t version;

    file_name(name, file);
    int r = file_read_small(store->names_fd, file, NAME_FILE_BYTES_MAX, &text, &len, err);
    if (r < 0)
        return r;
    json_t *object = json_loadb((const char *)text, len, JSON_REJECT_DUPLICATES, NULL);
    bool ok = json_take_number(object, "version", NAME_VERSION, &version) &&
              version == NAME_VERSION && json_take_text(object, "id", id, sizeof(id)) &&
              image_digest_is_valid(id, SNAPSHOT_ID_HEX);
    json_decref(object);
    if (!ok)
        return error_say(err, EBADMSG, "the name '%s' is damaged (names/%s holds no id)", name,
                         file);
    memcpy(ret_id, id, sizeof(id));
    return 0;
}

int snapshot_name_write(const struct snapshot_store *store, const char *name, const char *id,
                        struct error *err)
{
    char file[SNAPSHOT_FILE_NAME_BYTES], text[128];
    struct temp_file temp;
    int r = temp_file_create(&temp, store->names_fd, err);

    if (r < 0)
        return r;
    file_name(name, file);
    int len = snprintf(text, sizeof(text), "{\"version\": %d, \"id\": \"%s\"}\n", NAME_VERSION, id);
    r = file_pwrite_all(temp.fd, text, (size_t)len, 0);
    if (r < 0)
        error_set(err, -r, "write the name '%s'", name);
    else
        r = temp_file_publish(&temp, file, 0644, err);
    temp_file_done(&temp);
    return r;
}

int snapshot_name_remove(const struct snapshot_store *store, const char *name, struct error *err)
{
    char file[SNAPSHOT_FILE_NAME_BYTES];

    file_name(name, file);
    if (unlinkat(store->names_fd, file, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "remove the name '%s'", name);
    return 0;
}

struct each {
    const struct snapshot_store *store;
    snapshot_name_visit *visit;
    void *opaque;
};

static int visit_entry(void *opaque, const char *stem, struct error *err)
{
    const struct each *each = opaque;
    char id[SNAPSHOT_ID_HEX + 1] = "";
    int r = snapshot_name_read(each->store, stem, id, NULL);

    if (r == -ENOENT) /* removed meanwhile */
        return 0;
    return each->visit(each->opaque, stem, id, err);
}

int snapshot_names_each(const struct snapshot_store *store, snapshot_name_visit *visit,
                        void *opaque, struct error *err)
{
    struct each each = {.store = store, .visit = visit, .opaque = opaque};

    return snapshot_each_entry(store->names_fd, SNAPSHOT_NAME_SUFFIX, false, visit_entry, &each,
                               err);
}
