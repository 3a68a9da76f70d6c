/* State directories for benchmarks: see bench_state.h. Process: the CLI. */
#include "bench_state.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "host/store/registry.h"
#include "images/image_file.h"

#define TENANT "default"

static const char code[] = "def handler(event, context):\n    return event\n";

/* --- a directory ----------------------------------------------------------------------------- */

static int join(char to[PATH_MAX], const char *directory, const char *name, struct error *err)
{
    return snprintf(to, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX
               ? error_say(err, ENAMETOOLONG, "the path '%s/%s' is too long", directory, name)
               : 0;
}

/* Files of @from as links in the new directory @to; directories with @depth to go, likewise. */
static int link_tree(const char *from, const char *to, unsigned depth, struct error *err)
{
    char source[PATH_MAX], target[PATH_MAX];
    const struct dirent *entry;
    struct stat st;
    int r = mkdir(to, 0700) < 0 ? error_set(err, errno, "make '%s'", to) : 0;
    DIR *directory = r == 0 ? opendir(from) : NULL;

    if (r == 0 && !directory)
        return errno == ENOENT ? 0 : error_set(err, errno, "read '%s'", from);
    while (r == 0 && (entry = readdir(directory))) {
        /* What is unpacked can be made again; a whole memory each, it is large. */
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "cache") == 0)
            continue;
        r = join(source, from, entry->d_name, err);
        if (r == 0)
            r = join(target, to, entry->d_name, err);
        if (r < 0 || lstat(source, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth > 0)
            r = link_tree(source, target, depth - 1, err);
        else if (S_ISREG(st.st_mode) && link(source, target) < 0 && errno != ENOENT)
            r = error_set(err, errno, "link '%s'", source);
    }
    if (directory)
        closedir(directory);
    return r;
}

static int share(const char *state, const char *path, struct error *err)
{
    char from[PATH_MAX], to[PATH_MAX], whole[PATH_MAX];
    int r = join(from, state, "images", err);

    if (r == 0)
        r = join(to, path, "images", err);
    if (r < 0)
        return r;
    if (!realpath(from, whole))
        return error_set(err, errno, "find the images '%s'", from);
    if (symlink(whole, to) < 0)
        return error_set(err, errno, "link '%s'", to);
    r = join(from, state, "snapshots", err);
    if (r == 0)
        r = join(to, path, "snapshots", err);
    return r < 0 ? r : link_tree(from, to, 1, err);
}

int bench_state_make(const char *state, struct bench_state *ret_state, struct error *err)
{
    int r = join(ret_state->path, state, "bench-XXXXXX", err);

    if (r == 0 && !mkdtemp(ret_state->path))
        r = error_set(err, errno, "make a directory below '%s'", state);
    if (r < 0) {
        ret_state->path[0] = '\0';
        return r;
    }
    r = share(state, ret_state->path, err);
    if (r < 0)
        bench_state_remove(ret_state);
    return r;
}

void bench_state_remove(struct bench_state *state)
{
    struct error ignored;

    if (state->path[0])
        file_remove_tree(state->path, &ignored);
    state->path[0] = '\0';
}

/* --- functions ------------------------------------------------------------------------------- */

int bench_state_zip(uint8_t ret_zip[BENCH_ZIP_BYTES], struct error *err)
{
    struct archive_entry *entry = archive_entry_new();
    struct archive *archive = archive_write_new();
    size_t used = 0;
    int r = ARCHIVE_FATAL;

    if (archive && entry) {
        archive_write_set_format_zip(archive);
        archive_write_set_bytes_in_last_block(archive, 1);
        archive_write_open_memory(archive, ret_zip, BENCH_ZIP_BYTES, &used);
        archive_entry_set_pathname(entry, "app.py");
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_size(entry, sizeof(code) - 1);
        archive_write_header(archive, entry);
        archive_write_data(archive, code, sizeof(code) - 1);
        r = archive_write_close(archive);
    }
    archive_entry_free(entry);
    if (archive)
        archive_write_free(archive);
    return r == ARCHIVE_OK ? (int)used : error_say(err, EIO, "make the benchmark's own package");
}

void bench_state_function_name(uint64_t i, char ret_name[BENCH_NAME_BYTES])
{
    snprintf(ret_name, BENCH_NAME_BYTES, "function-%06llu", (unsigned long long)i);
}

static int add_function(struct registry *registry, uint64_t i, struct code_staged *staged,
                        struct error *err)
{
    const struct text_pair environment[] = {{"STAGE", "bench"}, {"TABLE", "a-table-of-things"}};
    const struct function_settings settings = {
        .members = SETS_RUNTIME | SETS_HANDLER | SETS_ENVIRONMENT,
        .runtime = "python3.11",
        .handler = "app.handler",
        .environment = environment,
        .n_environment = ARRAY_LEN(environment),
    };
    char name[BENCH_NAME_BYTES];
    const struct function_key key = {TENANT, name, NULL};
    struct function *function = NULL;

    bench_state_function_name(i, name);
    int r = registry_create_function(registry, &key, &settings, staged, NULL, 0, &function, err);
    if (r == 0)
        r = registry_finish_build(registry, function->build_id, NULL, err);
    function_free(function);
    return r;
}

static int fill(struct registry *registry, uint64_t n, bench_state_progress *progress, void *opaque,
                struct error *err)
{
    const struct tenant tenant = {.name = TENANT, .account_id = "000000000000"};
    struct code_staged *staged = NULL;
    uint8_t zip[BENCH_ZIP_BYTES];
    int len = bench_state_zip(zip, err);
    int r = len < 0 ? len : registry_put_tenant(registry, &tenant, err);

    if (r == 0)
        r = code_store_stage(registry_code_store(registry), zip, (size_t)len, &staged, err);
    for (uint64_t i = 0; i < n && r == 0; i++) {
        r = add_function(registry, i, staged, err);
        if (r == 0 && progress)
            r = progress(opaque, i + 1, n, err);
    }
    code_staged_free(staged);
    return r;
}

int bench_state_fill(const char *path, uint64_t n, bench_state_progress *progress, void *opaque,
                     struct error *err)
{
    const struct registry_options options = {.state = path};
    struct registry *registry;

    if (mkdir(path, 0700) < 0)
        return error_set(err, errno, "make '%s'", path);
    int r = registry_open(&options, &registry, err);
    if (r < 0)
        return r;
    r = fill(registry, n, progress, opaque, err);
    registry_close(registry);
    return r;
}
