/*
 * What is in a store: finding, describing and listing. Part of the snapshot store
 * (snapshot_store.h); names of files and directories may have been put there by an attacker.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_manifest.h"
#include "snapshot/snapshot_internal.h"

enum { ID_PREFIX_MIN = 8, LIST_MAX = 100000 };

/* The stem if @file is "<valid stem><suffix>". */
static bool strip_suffix(const char *file, const char *suffix, bool is_id,
                         char stem[SNAPSHOT_ID_HEX + 1])
{
    size_t len = strlen(file), suffix_len = strlen(suffix);

    if (len <= suffix_len || len - suffix_len > SNAPSHOT_ID_HEX ||
        strcmp(file + len - suffix_len, suffix) != 0)
        return false;
    memcpy(stem, file, len - suffix_len);
    stem[len - suffix_len] = '\0';
    return is_id ? image_digest_is_valid(stem, SNAPSHOT_ID_HEX) : image_name_is_valid(stem);
}

int snapshot_each_entry(int dir_fd, const char *suffix, bool is_id, snapshot_entry_visit *visit,
                        void *opaque, struct error *err)
{
    char stem[SNAPSHOT_ID_HEX + 1];
    int own_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own_fd < 0 ? NULL : fdopendir(own_fd);
    int r = 0;

    if (!dir) {
        r = error_set(err, errno, "list a directory of the snapshot store");
        if (own_fd >= 0)
            close(own_fd);
        return r;
    }
    for (struct dirent *entry; r == 0 && (entry = readdir(dir)) != NULL;)
        if (strip_suffix(entry->d_name, suffix, is_id, stem))
            r = visit(opaque, stem, err);
    closedir(dir);
    return r;
}

/* --- find ------------------------------------------------------------------------------------ */

struct search {
    const char *prefix;
    unsigned found;
    char id[SNAPSHOT_ID_HEX + 1];
};

static int match_id(void *opaque, const char *id, struct error *err)
{
    struct search *search = opaque;

    (void)err;
    if (strncmp(id, search->prefix, strlen(search->prefix)) == 0) {
        memcpy(search->id, id, sizeof(search->id));
        search->found++;
    }
    return 0;
}

int snapshot_store_find(struct snapshot_store *store, const char *name,
                        char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err)
{
    struct search search = {.prefix = name};
    int r = -ENOENT;

    if (image_name_is_valid(name))
        r = snapshot_name_read(store, name, ret_id, err);
    if (r != -ENOENT)
        return r;
    if (image_digest_is_valid(name, ID_PREFIX_MIN)) {
        r = snapshot_each_entry(store->top_fd, "", true, match_id, &search, err);
        if (r < 0)
            return r;
    }
    if (search.found > 1)
        return error_say(err, ENOTUNIQ, "'%s' is the start of %u ids; give more of it", name,
                         search.found);
    if (search.found == 0)
        return error_say(err, ENOENT,
                         "no snapshot '%.80s' in '%s' (mayfly snapshot ls shows what there is)",
                         name, store->directory);
    memcpy(ret_id, search.id, sizeof(search.id));
    return 0;
}

/* --- describe -------------------------------------------------------------------------------- */

static void describe(const struct snapshot_store *store, const struct snapshot_object *object,
                     struct snapshot_info *info)
{
    const struct snapshot_manifest *manifest = &object->manifest;
    char id[SNAPSHOT_ID_HEX + 1] = "";

    info->manifest = *manifest;
    info->is_named =
        snapshot_name_read(store, manifest->name, id, NULL) == 0 && strcmp(id, manifest->id) == 0;
    info->has_working_set =
        faccessat(object->fd, SNAPSHOT_FILE_WORKING_SET, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    info->stored_bytes = manifest->state.bytes + manifest->pages.bytes + manifest->memory.bytes;
    info->cached_bytes = snapshot_cache_bytes(store, manifest->id);
}

int snapshot_store_inspect(struct snapshot_store *store, const char *id,
                           struct snapshot_info *ret_info, struct error *err)
{
    struct snapshot_object object = {.fd = -1};
    struct snapshot_info info = {0};
    int r = snapshot_store_resolve(store, id, &object, err);

    if (r < 0)
        return r;
    describe(store, &object, &info);
    snapshot_object_done(&object);
    *ret_info = info;
    return 0;
}

/* --- list ------------------------------------------------------------------------------------ */

/* A growing list of snapshots. */
struct list {
    struct snapshot_store *store;
    struct snapshot_info *items; /* owned */
    size_t n, room;
};

static int list_add(struct list *list, const struct snapshot_info *info, struct error *err)
{
    if (list->n == LIST_MAX)
        return error_set(err, EMFILE, "list snapshots");
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        struct snapshot_info *grown = realloc(list->items, room * sizeof(*grown));

        if (!grown)
            return error_set(err, ENOMEM, "list snapshots");
        list->items = grown;
        list->room = room;
    }
    list->items[list->n++] = *info;
    return 0;
}

static int list_visit(void *opaque, const char *id, struct error *err)
{
    struct list *list = opaque;
    struct snapshot_info info = {0};
    struct error problem = {0};
    int r = snapshot_store_inspect(list->store, id, &info, &problem);

    if (r == -ENOENT) /* removed meanwhile */
        return 0;
    if (r < 0) {
        memcpy(info.manifest.id, id, sizeof(info.manifest.id));
        snprintf(info.problem, sizeof(info.problem), "%.255s", problem.text);
    }
    return list_add(list, &info, err);
}

/* Damaged ones last; else by level, then name: a parent never stands below its child's level. */
static int compare_infos(const void *a, const void *b)
{
    const struct snapshot_info *x = a, *y = b;
    int order = (x->problem[0] != '\0') - (y->problem[0] != '\0');

    if (order == 0)
        order = (int)x->manifest.level - (int)y->manifest.level;
    if (order == 0)
        order = strcmp(x->manifest.name, y->manifest.name);
    return order ? order : strcmp(x->manifest.id, y->manifest.id);
}

int snapshot_store_list(struct snapshot_store *store, struct snapshot_info **ret_list,
                        size_t *ret_n, struct error *err)
{
    struct list list = {.store = store};
    int r = snapshot_each_entry(store->top_fd, "", true, list_visit, &list, err);

    if (r < 0) {
        free(list.items);
        return r;
    }
    if (list.n > 1)
        qsort(list.items, list.n, sizeof(*list.items), compare_infos);
    *ret_list = list.items;
    *ret_n = list.n;
    return 0;
}
