/*
 * Building root images: see image_builder.h. Process: the CLI, as root.
 * The steps are programs of Debian (mmdebstrap, ldconfig, the image's own python, mkfs.erofs) run
 * with a clean environment; between them the tree is changed by image_tree.c. Packages are trusted
 * as far as apt's signatures go; an imported archive is not trusted at all.
 */
#include "images/image_builder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_apt.h"
#include "images/image_child.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "images/image_recipe.h"
#include "images/image_tree.h"
#include "images/image_unpack.h"

enum {
    BUILDER_VERSION = 1, /* part of the inputs' digest: raise it when the same recipe gives more */
    /* Linux maps persistent memory in sections of 2 MiB; the image fills its last one with zeroes.
     */
    PMEM_SECTION_BYTES = 2 << 20,
    ARGUMENTS_MAX = 16 + APT_SOURCES_MAX,
};

/* All times and the UUID in an image, so that equal inputs give equal images. */
#define FIXED_TIME "1672531200"
#define FIXED_UUID "6d617966-6c79-4d69-8000-000000000001"

/* What mmdebstrap takes from the host, or leaves behind: no image needs it, and it says where it
 * was built. */
static char *const leftovers[] = {
    (char[]){"/etc/apt"},        (char[]){"/etc/hostname"}, (char[]){"/etc/resolv.conf"},
    (char[]){"/var/lib/apt"},    (char[]){"/var/lib/dpkg"}, (char[]){"/var/cache"},
    (char[]){"/var/log"},        (char[]){"/dev/*"},        (char[]){"/tmp/*"},
    (char[]){"/etc/machine-id"}, (char[]){"/etc/mtab"},
};

/* One build under way: a temporary directory with the tree and the file system made from it. */
struct work {
    const struct image_build *build;
    char directory[PATH_MAX - 64]; /* "" once removed */
    char root[PATH_MAX];           /* <directory>/root */
    char erofs[PATH_MAX];          /* <directory>/image */
    char log[PATH_MAX];            /* <store>/log/<name>.log; stays */
    int root_fd;                   /* owned */
};

static int work_init(struct work *work, const struct image_build *build, const char *name,
                     struct error *err)
{
    const char *tmp = getenv("TMPDIR");

    *work = (struct work){.build = build, .root_fd = -1};
    if (!image_name_is_valid(name)) /* it becomes part of a path below */
        return error_say(err, EINVAL, "'%s' cannot name an image: use a-z, 0-9, '.', '_' and '-'",
                         name);
    if (geteuid() != 0)
        return error_say(err, EPERM, "building or importing a root image needs root");
    snprintf(work->log, sizeof(work->log), "%s/log", build->store_directory);
    int r = file_make_directory(work->log, 0755, err);
    if (r < 0)
        return r;
    snprintf(work->log, sizeof(work->log), "%s/log/%s.log", build->store_directory, name);
    if (unlink(work->log) < 0 && errno != ENOENT)
        return error_set(err, errno, "replace '%s'", work->log);
    snprintf(work->directory, sizeof(work->directory), "%s/mayfly-image-XXXXXX",
             tmp && tmp[0] == '/' ? tmp : "/var/tmp");
    if (!mkdtemp(work->directory)) {
        r = error_set(err, errno, "make a temporary directory '%s'", work->directory);
        work->directory[0] = 0;
        return r;
    }
    /* apt gives up its rights to fetch, and must get through here then; nobody else can list it. */
    if (chmod(work->directory, 0711) < 0)
        return error_set(err, errno, "set the mode of '%s'", work->directory);
    snprintf(work->root, sizeof(work->root), "%s/root", work->directory);
    snprintf(work->erofs, sizeof(work->erofs), "%s/image", work->directory);
    if (mkdir(work->root, 0755) < 0)
        return error_set(err, errno, "make '%s'", work->root);
    work->root_fd = open(work->root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return work->root_fd < 0 ? error_set(err, errno, "open '%s'", work->root) : 0;
}

/* An error in removing is worth a word only if nothing else went wrong. */
static int work_done(struct work *work, int result, struct error *err)
{
    struct error removal;

    fd_close_at_exit(&work->root_fd);
    work->root_fd = -1;
    if (work->directory[0] && file_remove_tree(work->directory, &removal) < 0 && result == 0) {
        *err = removal;
        result = -removal.code;
    }
    work->directory[0] = 0;
    return result;
}

static bool is_cancelled(const struct work *work)
{
    const struct image_watch *watch = work->build->watch;

    return watch && watch->cancelled && *watch->cancelled;
}

static int run(const struct work *work, const char *stage, const char *root,
               const char *const *argv, struct error *err)
{
    int r = is_cancelled(work) ? error_say(err, EINTR, "interrupted")
                               : child_run(&(struct child){.argv = argv,
                                                           .root = root,
                                                           .log = work->log,
                                                           .stage = stage,
                                                           .watch = work->build->watch},
                                           err);

    return r == -ENOENT ? error_wrap(err, "%s (is its Debian package installed?)", stage) : r;
}

/* --- from tree to store ---------------------------------------------------------------------- */

/* To whole sections of zeroes, which compress to nothing. */
static int pad(const char *path, struct error *err)
{
    struct stat st;

    if (stat(path, &st) < 0 ||
        truncate(path, (off_t)round_up((uint64_t)st.st_size, PMEM_SECTION_BYTES)) < 0)
        return error_set(err, errno, "pad '%s'", path);
    return 0;
}

/*
 * Uncompressed, and no file's tail beside its inode (noinline_data): every block of a file is a
 * block of the image, which is what DAX maps. Compact inodes: 32 bytes instead of 64. (With
 * SOURCE_DATE_EPOCH set mkfs.erofs 1.5 would keep older times, and with them the large inodes.)
 */
static int make_erofs(const struct work *work, struct error *err)
{
    const char *const argv[] = {"mkfs.erofs",    "--quiet",  "-T" FIXED_TIME,
                                "-U" FIXED_UUID, "-x-1",     "-Enoinline_data,force-inode-compact",
                                work->erofs,     work->root, NULL};
    int r = run(work, "make the file system", NULL, argv, err);

    return r < 0 ? r : pad(work->erofs, err);
}

static int tree_to_store(const struct work *work, struct image_info *info, struct error *err)
{
    int r = tree_finish(work->root_fd, work->build->agent, err);

    if (r == 0)
        r = tree_check(work->root, err);
    if (r == 0)
        r = make_erofs(work, err);
    return r < 0 ? r : image_store_add(work->build->store, work->erofs, info, err);
}

/* --- recipe ---------------------------------------------------------------------------------- */

/* "a,b,c", owned by the caller. */
static char *join_packages(const struct recipe *recipe)
{
    size_t len = 1;

    for (unsigned i = 0; i < recipe->n_packages; i++)
        len += strlen(recipe->packages[i]) + 1;
    char *joined = malloc(len), *at = joined;
    for (unsigned i = 0; joined && i < recipe->n_packages; i++)
        at += sprintf(at, "%s%s", i ? "," : "", recipe->packages[i]);
    return joined;
}

static int install_packages(const struct work *work, const struct recipe *recipe, struct error *err)
{
    AUTO_FREE char *packages = join_packages(recipe);
    AUTO_FREE char *include = NULL;
    AUTO_FREE char *aptopt = NULL;
    char options[PATH_MAX], dump[PATH_MAX];
    struct apt_sources sources;

    snprintf(options, sizeof(options), "%s/apt.conf", work->directory);
    snprintf(dump, sizeof(dump), "%s/apt.dump", work->directory);
    if (!packages || asprintf(&include, "--include=%s", packages) < 0 ||
        asprintf(&aptopt, "--aptopt=%s", options) < 0)
        return error_set(err, ENOMEM, "install packages");
    int r = apt_write_options(options, dump, err);
    if (r == 0)
        r = apt_find_sources(recipe->suite, &sources, err);
    if (r < 0)
        return r;
    const char *argv[ARGUMENTS_MAX] = {"mmdebstrap",
                                       "--mode=root",
                                       "--variant=extract",
                                       "--architectures=amd64",
                                       "--format=directory",
                                       "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                                       aptopt,
                                       include,
                                       recipe->suite,
                                       work->root};
    for (unsigned i = 0; i < sources.n; i++)
        argv[10 + i] = sources.files[i];
    r = run(work, "fetch and unpack Debian packages", NULL, argv, err);
    apt_sources_done(&sources);
    return r;
}

static int add_files(const struct work *work, const struct recipe *recipe, struct error *err)
{
    char source[PATH_MAX];
    int r = 0;

    for (unsigned i = 0; r == 0 && i < recipe->n_links; i++)
        r = tree_make_link(work->root_fd, recipe->links[i].path, recipe->links[i].target, err);
    for (unsigned i = 0; r == 0 && i < recipe->n_files; i++) {
        snprintf(source, sizeof(source), "%s/%s", work->build->source, recipe->files[i].source);
        r = tree_copy(work->root_fd, source, recipe->files[i].path, err);
    }
    return r;
}

/*
 * Unchecked hashes: the interpreter takes the bytecode without comparing it with the source, which
 * cannot change in a read-only image, and the file does not depend on any time stamp.
 */
static int compile_python(const struct work *work, const struct recipe_python *python,
                          struct error *err)
{
    const char *argv[16 + 64] = {
        python->interpreter, "-I", "-m", "compileall", "-q", "-f", "-j1", "--invalidation-mode",
        "unchecked-hash"};

    for (unsigned i = 0; i < python->n_directories; i++)
        argv[9 + i] = python->directories[i];
    return run(work, "compile Python modules", work->root, argv, err);
}

static int build_tree(const struct work *work, const struct recipe *recipe, struct error *err)
{
    const char *const ldconfig[] = {"ldconfig", "-r", work->root, NULL};
    const char *const cache[] = {"/var/cache"};
    int r = install_packages(work, recipe, err);

    if (r == 0)
        r = tree_delete(work->root, leftovers, ARRAY_LEN(leftovers), NULL, 0, err);
    if (r == 0)
        r = tree_delete(work->root, recipe->delete, recipe->n_delete, recipe->keep, recipe->n_keep,
                        err);
    if (r == 0)
        r = add_files(work, recipe, err);
    if (r == 0 && recipe->compile_python)
        r = compile_python(work, recipe->compile_python, err);
    if (r == 0)
        r = run(work, "make the linker's cache", NULL, ldconfig, err);
    if (r == 0) /* ldconfig's own notes, which hold times */
        r = tree_delete(work->root, (char *const *)(uintptr_t)cache, 1, NULL, 0, err);
    return r;
}

/* The digest of all that goes in but the packages, which the archive may update at any time. */
static int digest_inputs(const struct image_build *build, const char *path,
                         const struct recipe *recipe, char hex[2 * SHA256_BYTES + 1],
                         struct error *err)
{
    struct sha256 *sha256 = sha256_new();
    uint8_t version = BUILDER_VERSION, digest[SHA256_BYTES];
    char source[PATH_MAX];

    if (!sha256)
        return error_set(err, ENOMEM, "digest the inputs of an image");
    sha256_add(sha256, &version, 1);
    int r = tree_digest(path, sha256, err);
    if (r == 0)
        r = tree_digest(build->agent, sha256, err);
    for (unsigned i = 0; r == 0 && i < recipe->n_files; i++) {
        snprintf(source, sizeof(source), "%s/%s", build->source, recipe->files[i].source);
        r = tree_digest(source, sha256, err);
    }
    sha256_take(sha256, digest);
    sha256_free(sha256);
    sha256_hex(digest, hex);
    return r;
}

static bool is_current(const struct image_build *build, const struct image_info *wanted,
                       struct image_info *ret_info)
{
    return build->if_changed && image_store_find(build->store, wanted->name, ret_info, NULL) == 0 &&
           strcmp(ret_info->made_of, wanted->made_of) == 0;
}

static int build_recipe(const struct image_build *build, const char *path,
                        const struct recipe *recipe, struct image_info *ret_info, bool *ret_built,
                        struct error *err)
{
    struct image_info info = {.kind = IMAGE_ROOT}, current;
    struct work work;
    char hex[2 * SHA256_BYTES + 1];
    int r = digest_inputs(build, path, recipe, hex, err);

    if (r < 0)
        return r;
    snprintf(info.name, sizeof(info.name), "%s", build->name ? build->name : recipe->name);
    snprintf(info.runtime, sizeof(info.runtime), "%s", recipe->runtime ? recipe->runtime : "");
    snprintf(info.made_of, sizeof(info.made_of), "recipe %.40s %.64s", recipe->name, hex);
    if (is_current(build, &info, &current)) {
        *ret_info = current;
        *ret_built = false;
        return 0;
    }
    r = work_init(&work, build, info.name, err);
    if (r == 0)
        r = build_tree(&work, recipe, err);
    if (r == 0)
        r = tree_to_store(&work, &info, err);
    r = work_done(&work, r, err);
    if (r == 0) {
        *ret_info = info;
        *ret_built = true;
    }
    return r;
}

int image_build_recipe(const struct image_build *build, const char *path,
                       struct image_info *ret_info, bool *ret_built, struct error *err)
{
    struct recipe *recipe = NULL;
    int r = recipe_load(path, &recipe, err);

    if (r < 0)
        return r;
    r = build_recipe(build, path, recipe, ret_info, ret_built, err);
    recipe_free(recipe);
    return r;
}

/* --- import ---------------------------------------------------------------------------------- */

struct unpack_call {
    int fd;
    const char *what;
};

static int unpack_in_child(void *opaque, struct error *err)
{
    const struct unpack_call *call = opaque;

    return unpack_tar(call->fd, call->what, err);
}

static int fill_from(const struct work *work, const char *path, struct error *err)
{
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s'", path);
    if (S_ISDIR(st.st_mode)) {
        AUTO_FREE char *content = NULL;
        if (asprintf(&content, "%s%s/.", path[0] == '/' ? "" : "./", path) < 0)
            return error_set(err, ENOMEM, "copy '%s'", path);
        const char *const argv[] = {
            "cp",       "-dR", "--one-file-system", "--preserve=mode,ownership,links", content,
            work->root, NULL};
        return run(work, "copy the directory", NULL, argv, err);
    }
    if (!S_ISREG(st.st_mode))
        return error_say(err, EINVAL, "'%s' is neither a directory nor a tar archive", path);
    return child_run(&(struct child){.root = work->root,
                                     .log = work->log,
                                     .stage = "unpack the archive",
                                     .watch = work->build->watch,
                                     .call = unpack_in_child,
                                     .opaque = &(struct unpack_call){.fd = fd, .what = path}},
                     err);
}

int image_build_import(const struct image_build *build, const char *path,
                       struct image_info *ret_info, struct error *err)
{
    struct image_info info = {.kind = IMAGE_ROOT};
    struct work work;
    const char *base = strrchr(path, '/');

    snprintf(info.name, sizeof(info.name), "%s", build->name);
    snprintf(info.runtime, sizeof(info.runtime), "%s", build->runtime);
    snprintf(info.made_of, sizeof(info.made_of), "import %.100s",
             base && base[1] ? base + 1 : path);
    for (char *c = info.made_of; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    int r = work_init(&work, build, info.name, err);
    if (r == 0)
        r = fill_from(&work, path, err);
    if (r == 0)
        r = tree_to_store(&work, &info, err);
    r = work_done(&work, r, err);
    if (r == 0)
        *ret_info = info;
    return r;
}
