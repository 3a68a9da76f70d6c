/* The snapshots of functions: see function_snapshot.h. */
#include "function_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/cpu_template.h"
#include "common/fd.h"
#include "images/image_sha256.h"

enum { KEY_HEX = 16, LABEL_MAX = 38 };

/* --- keys ---------------------------------------------------------------------------------- */

/* Digests a list of texts, each with its end, so that no two lists give the same bytes. */
static int digest_texts(const char *const *texts, size_t n, char ret_hex[IMAGE_DIGEST_HEX + 1],
                        struct error *err)
{
    AUTO_FREE char *joined = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&joined, &len);

    if (!stream)
        return error_set(err, ENOMEM, "digest a snapshot's key");
    for (size_t i = 0; i < n; i++)
        fprintf(stream, "%zu:%s;", strlen(texts[i]), texts[i]);
    if (fclose(stream) != 0)
        return error_set(err, ENOMEM, "digest a snapshot's key");
    uint8_t digest[SHA256_BYTES];
    int r = sha256_of(joined, len, digest);
    if (r < 0)
        return error_set(err, -r, "digest a snapshot's key");
    sha256_hex(digest, ret_hex);
    return 0;
}

/* What a tree is of: found once, used for all its levels. */
struct tree {
    struct image_info image, kernel;
    char size[64]; /* memory, the function's part of it, and vCPUs */
    char runtime_key[IMAGE_DIGEST_HEX + 1];
    char function_key[IMAGE_DIGEST_HEX + 1];
    char configuration_digest[IMAGE_DIGEST_HEX + 1];
};

static int digest_configuration(const struct instance_function *function,
                                char ret_hex[IMAGE_DIGEST_HEX + 1], struct error *err)
{
    size_t n = 0;
    char memory[48];
    AUTO_FREE const char **texts = calloc(7 + 2 * function->n_environment, sizeof(char *));

    if (!texts)
        return error_set(err, ENOMEM, "digest a snapshot's key");
    snprintf(memory, sizeof(memory), "%u MiB, /tmp %u MiB", function->memory_mib,
             function->tmp_mib);
    texts[n++] = memory;
    texts[n++] = function->owner ? function->owner : "";
    texts[n++] = function->runtime;
    texts[n++] = function->handler ? function->handler : "";
    texts[n++] = function->name;
    texts[n++] = function->version;
    texts[n++] = function->arn ? function->arn : "";
    for (size_t i = 0; i < function->n_environment; i++) {
        texts[n++] = function->environment[i].name;
        texts[n++] = function->environment[i].value;
    }
    return digest_texts(texts, n, ret_hex, err);
}

static int find_tree(const struct function_snapshot_config *config,
                     const struct instance_function *function, struct tree *tree, struct error *err)
{
    const struct instance_config *instance = &config->instance;
    int r = image_store_find(instance->store, instance->image, &tree->image, err);

    if (r == 0)
        r = image_store_find(instance->store, instance->kernel, &tree->kernel, err);
    if (r == 0)
        r = digest_configuration(function, tree->configuration_digest, err);
    if (r < 0)
        return r;
    /* An interpreter that was started ahead has its heap's limit for good. */
    snprintf(tree->size, sizeof(tree->size), "%u MiB, %u of them its own, %u vCPUs",
             instance->memory_mib, function->memory_mib, instance->vcpus);
    const char *runtime[] = {MAYFLY_VERSION,
                             tree->kernel.digest,
                             tree->image.digest,
                             tree->size,
                             function->runtime,
                             instance->command_line ? instance->command_line : "",
                             instance->cpu_template ? instance->cpu_template : ""};
    /* Without a template it is no part of the key. */
    const bool has_template = instance->cpu_template && instance->cpu_template[0];
    r = digest_texts(runtime, sizeof(runtime) / sizeof(runtime[0]) - (has_template ? 0 : 1),
                     tree->runtime_key, err);
    if (r < 0)
        return r;
    const char *whole[] = {tree->runtime_key, tree->configuration_digest,
                           function->package->digest};
    return digest_texts(whole, sizeof(whole) / sizeof(whole[0]), tree->function_key, err);
}

/* @label: of a function's, or NULL. */
static void name_of_level(const struct tree *tree, enum snapshot_level level, const char *label,
                          char *name, size_t size)
{
    const char *key = level == SNAPSHOT_FUNCTION ? tree->function_key : tree->runtime_key;
    bool has_label = level == SNAPSHOT_FUNCTION && label;

    snprintf(name, size, "%s-%.*s%s%.*s", snapshot_level_name(level), LABEL_MAX,
             has_label ? label : "", has_label ? "-" : "", KEY_HEX, key);
}

static int find_level(const struct function_snapshot_config *config, const char *name,
                      struct snapshot_manifest *ret_manifest, struct error *err)
{
    char id[SNAPSHOT_ID_HEX + 1];
    struct snapshot_info info;
    int r = snapshot_store_find(config->snapshots, name, id, err);

    if (r == 0)
        r = snapshot_store_inspect(config->snapshots, id, &info, err);
    if (r == 0)
        *ret_manifest = info.manifest;
    return r;
}

int function_snapshot_find(const struct function_snapshot_config *config,
                           const struct instance_function *function,
                           struct snapshot_manifest *ret_manifest, struct error *err)
{
    char name[SNAPSHOT_NAME_MAX + 1];
    struct tree tree;
    int r = find_tree(config, function, &tree, err);

    if (r < 0)
        return r;
    name_of_level(&tree, SNAPSHOT_FUNCTION, function->label, name, sizeof(name));
    return find_level(config, config->name ? config->name : name, ret_manifest, err);
}

int function_snapshot_named(const struct function_snapshot_config *config, const char *name,
                            struct snapshot_manifest *ret_manifest, struct error *err)
{
    int r = find_level(config, name, ret_manifest, err);

    if (r == 0 && ret_manifest->level != SNAPSHOT_FUNCTION)
        return error_say(err, EINVAL, "snapshot '%s' is of a %s, not of a function", name,
                         snapshot_level_name(ret_manifest->level));
    return r;
}

/* --- writing ------------------------------------------------------------------------------- */

/* As the monitor has it in its state: with a template, only that much. */
static int describe_cpu(const char *template_name, struct snapshot_cpu *to, struct error *err)
{
    const struct cpu_template *template =
        template_name && template_name[0] ? cpu_template_find(template_name) : NULL;
    struct cpu_identity cpu;

    cpu_identity_read(&cpu);
    int r = template ? cpu_template_apply(template, &cpu, err) : 0;
    if (r < 0)
        return r;
    if (template)
        snprintf(to->template_name, sizeof(to->template_name), "%s", template->name);
    memcpy(to->vendor, cpu.vendor, sizeof(cpu.vendor));
    to->family = cpu.family;
    to->model = cpu.model;
    to->stepping = cpu.stepping;
    to->xsave_bytes = cpu.xsave_bytes;
    to->n_features = CPU_FEATURE_WORDS;
    memcpy(to->features, cpu.features, sizeof(cpu.features));
    return 0;
}

static int describe(const struct function_snapshot_config *config,
                    const struct instance_function *function, const struct tree *tree,
                    enum snapshot_level level, const char *parent, struct snapshot_manifest *to,
                    struct error *err)
{
    *to = (struct snapshot_manifest){.level = level,
                                     .memory_mib = config->instance.memory_mib,
                                     .vcpus = config->instance.vcpus,
                                     .n_roots = 1};
    if (level == SNAPSHOT_FUNCTION && config->name)
        snprintf(to->name, sizeof(to->name), "%s", config->name);
    else
        name_of_level(tree, level, function->label, to->name, sizeof(to->name));
    snprintf(to->parent, sizeof(to->parent), "%s", parent);
    memcpy(to->kernel_digest, tree->kernel.digest, sizeof(to->kernel_digest));
    memcpy(to->root_digests[0], tree->image.digest, sizeof(to->root_digests[0]));
    snprintf(to->mayfly_version, sizeof(to->mayfly_version), "%s", MAYFLY_VERSION);
    int r = describe_cpu(config->instance.cpu_template, &to->cpu, err);
    if (r < 0 || level == SNAPSHOT_BASE)
        return r;
    snprintf(to->runtime, sizeof(to->runtime), "%s", function->runtime);
    if (level == SNAPSHOT_FUNCTION) {
        snprintf(to->function_digest, sizeof(to->function_digest), "%s", function->package->digest);
        memcpy(to->configuration_digest, tree->configuration_digest,
               sizeof(to->configuration_digest));
    }
    return 0;
}

static int store_frozen(const struct function_snapshot_config *config,
                        const struct snapshot_manifest *about, int memory_fd, int state_fd,
                        struct snapshot_manifest *ret_manifest, struct error *err)
{
    AUTO_FREE uint8_t *state = NULL;
    off_t len = lseek(state_fd, 0, SEEK_END);

    if (len <= 0 || len > SNAPSHOT_STATE_BYTES_MAX)
        return error_say(err, EPROTO, "the monitor wrote a state of %lld bytes", (long long)len);
    state = malloc((size_t)len);
    int r = state ? fd_pread_all(state_fd, state, (size_t)len, 0) : -ENOMEM;
    if (r < 0)
        return error_set(err, -r, "take the monitor's state");
    const struct snapshot_write write = {
        .about = about, .state = state, .state_bytes = (size_t)len, .memory_fd = memory_fd};
    return snapshot_store_write(config->snapshots, &write, ret_manifest, err);
}

/* Memory of many GiB does not belong into memory a second time: a file without a name. */
static int scratch_file(const struct function_snapshot_config *config, struct error *err)
{
    int fd = open(config->instance.run_directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    return fd >= 0 ? fd
                   : error_set(err, errno, "make a file in '%s'", config->instance.run_directory);
}

/* Freezes @instance, stores it, and lets it go on. */
static int freeze(const struct function_snapshot_config *config,
                  const struct instance_function *function, const struct tree *tree,
                  struct instance *instance, enum snapshot_level level, const char *parent,
                  struct agent_result *ret_result, struct snapshot_manifest *ret_manifest,
                  struct error *err)
{
    struct snapshot_manifest about;
    AUTO_FD memory_fd = scratch_file(config, err);

    if (memory_fd < 0)
        return memory_fd;
    AUTO_FD state_fd = memfd_create("mayfly-state", MFD_CLOEXEC);
    if (state_fd < 0)
        return error_set(err, errno, "make a file for the monitor's state");
    int r = instance_freeze(instance, memory_fd, state_fd, ret_result, err);
    if (r < 0 || ret_result->outcome != OUTCOME_OK)
        return r;
    r = describe(config, function, tree, level, parent, &about, err);
    if (r == 0)
        r = store_frozen(config, &about, memory_fd, state_fd, ret_manifest, err);
    /* With the file goes the memory that it may be in, and the monitor's leave to have so much. */
    fd_close_at_exit(&memory_fd);
    memory_fd = -1;
    if (r == 0)
        r = instance_thaw(instance, err);
    if (r < 0)
        agent_result_done(ret_result);
    return r;
}

/* As freeze(), where a hook cannot be at fault. */
static int freeze_level(const struct function_snapshot_config *config,
                        const struct instance_function *function, const struct tree *tree,
                        struct instance *instance, enum snapshot_level level, const char *parent,
                        struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct agent_result result;
    int r = freeze(config, function, tree, instance, level, parent, &result, ret_manifest, err);

    if (r < 0)
        return error_wrap(err, "make the %s snapshot", snapshot_level_name(level));
    if (result.outcome != OUTCOME_OK)
        r = error_say(err, EIO, "make the %s snapshot: %s", snapshot_level_name(level),
                      result.message);
    agent_result_done(&result);
    return r;
}

/* --- making -------------------------------------------------------------------------------- */

static int make_runtime(const struct function_snapshot_config *config,
                        const struct instance_function *function, const struct tree *tree,
                        struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct snapshot_manifest base;
    struct instance *instance = NULL;
    int r = instance_boot(&config->instance, &instance, err);

    if (r == 0)
        r = freeze_level(config, function, tree, instance, SNAPSHOT_BASE, "", &base, err);
    if (r == 0)
        r = instance_preload(instance, function->runtime, function->memory_mib, err);
    if (r == 0)
        r = freeze_level(config, function, tree, instance, SNAPSHOT_RUNTIME, base.id, ret_manifest,
                         err);
    instance_destroy(instance);
    return r;
}

/* Damaged, or of another processor or KVM than this host is today. */
static bool is_useless(int r)
{
    return r == -EBADMSG || r == -ENOTSUP;
}

/* The runtime level of @tree, made if it is missing. */
static int take_runtime(const struct function_snapshot_config *config,
                        const struct instance_function *function, const struct tree *tree,
                        struct snapshot_manifest *ret_manifest, bool *ret_made, struct error *err)
{
    char name[SNAPSHOT_NAME_MAX + 1];

    name_of_level(tree, SNAPSHOT_RUNTIME, NULL, name, sizeof(name));
    int r = find_level(config, name, ret_manifest, err);
    *ret_made = r == -ENOENT || is_useless(r);
    return *ret_made ? make_runtime(config, function, tree, ret_manifest, err) : r;
}

int function_snapshot_make_runtime(const struct function_snapshot_config *config,
                                   const struct instance_function *function, bool *ret_made,
                                   struct error *err)
{
    struct snapshot_manifest runtime;
    struct tree tree;
    int r = find_tree(config, function, &tree, err);

    return r < 0 ? r : take_runtime(config, function, &tree, &runtime, ret_made, err);
}

/* The instance that could not be frozen may be as good as ever. */
static bool goes_on_without(const struct function_snapshot_config *config,
                            struct instance *instance, const struct error *why)
{
    struct error ignored;

    if (!config->unstored || !instance_usable(instance) || instance_thaw(instance, &ignored) < 0)
        return false;
    *config->unstored = *why;
    return true;
}

int function_snapshot_make(const struct function_snapshot_config *config,
                           const struct instance_function *function, struct instance **ret_instance,
                           struct agent_result *ret_result, struct snapshot_manifest *ret_manifest,
                           bool *ret_booted, struct error *err)
{
    struct snapshot_manifest runtime;
    struct instance *instance = NULL;
    struct agent_result frozen;
    struct tree tree;
    int r = find_tree(config, function, &tree, err);

    *ret_instance = NULL;
    *ret_booted = false;
    if (r < 0)
        return r;
    r = take_runtime(config, function, &tree, &runtime, ret_booted, err);
    if (r == 0)
        r = function_snapshot_restore(config, &runtime, &instance, err);
    if (is_useless(r) && !*ret_booted) { /* made anew, once: its name is then the new one's */
        *ret_booted = true;
        r = make_runtime(config, function, &tree, &runtime, err);
        if (r == 0)
            r = function_snapshot_restore(config, &runtime, &instance, err);
    }
    if (r == 0)
        r = instance_prepare(instance, function, ret_result, err);
    if (r < 0 || ret_result->outcome != OUTCOME_OK) {
        instance_destroy(instance);
        return r;
    }
    r = freeze(config, function, &tree, instance, SNAPSHOT_FUNCTION, runtime.id, &frozen,
               ret_manifest, err);
    if (r < 0 && goes_on_without(config, instance, err)) {
        ret_manifest->id[0] = '\0';
        *ret_instance = instance;
        return 0;
    }
    agent_result_done(ret_result);
    if (r == 0)
        *ret_result = frozen;
    if (r < 0 || frozen.outcome != OUTCOME_OK) {
        instance_destroy(instance);
        return r;
    }
    *ret_instance = instance;
    return 0;
}

/* --- using --------------------------------------------------------------------------------- */

/* The state in a file of its own, for the monitor: it maps and reads only what it is given. Several
 * monitors may be given the same one, so none may change it. */
static int state_file(const struct function_snapshot_config *config,
                      const struct snapshot_manifest *manifest, struct error *err)
{
    AUTO_FREE uint8_t *state = NULL;
    size_t len;
    int r = snapshot_store_state(config->snapshots, manifest, &state, &len, err);

    if (r < 0)
        return r;
    AUTO_FD fd = memfd_create("mayfly-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    r = fd < 0 ? -errno : fd_write_all(fd, state, len);
    if (r == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        r = -errno;
    if (r < 0)
        return error_set(err, -r, "hand the state over");
    return fd_steal(&fd);
}

int function_snapshot_open(const struct function_snapshot_config *config,
                           const struct snapshot_manifest *manifest,
                           struct function_frozen *ret_frozen, struct error *err)
{
    AUTO_FREE char *image_path = NULL;
    AUTO_FD memory_fd = -1;
    AUTO_FD state_fd = state_file(config, manifest, err);

    if (state_fd < 0)
        return state_fd;
    int r = instance_find_image(&config->instance, manifest->root_digests[0], &image_path, err);
    if (r == 0)
        r = snapshot_store_flatten(config->snapshots, manifest, &memory_fd, NULL, err);
    if (r < 0)
        return r;
    /* The disk works while a shell is made. */
    snapshot_store_read_ahead(config->snapshots, manifest, memory_fd);
    *ret_frozen = (struct function_frozen){.memory_fd = fd_steal(&memory_fd),
                                           .state_fd = fd_steal(&state_fd),
                                           .image_path = mem_steal(&image_path),
                                           .memory_mib = manifest->memory_mib,
                                           .vcpus = manifest->vcpus,
                                           .has_function = manifest->level == SNAPSHOT_FUNCTION};
    snprintf(ret_frozen->cpu_template, sizeof(ret_frozen->cpu_template), "%s",
             manifest->cpu.template_name);
    return 0;
}

void function_frozen_done(struct function_frozen *frozen)
{
    fd_close_at_exit(&frozen->memory_fd);
    fd_close_at_exit(&frozen->state_fd);
    free(frozen->image_path);
    *frozen = (struct function_frozen){.memory_fd = -1, .state_fd = -1};
}

int function_frozen_restore(const struct instance_config *config,
                            const struct function_frozen *frozen, struct instance **ret_instance,
                            struct error *err)
{
    const struct instance_frozen parts = {.memory_fd = frozen->memory_fd,
                                          .state_fd = frozen->state_fd,
                                          .has_function = frozen->has_function};
    struct instance_config shell = *config;

    shell.memory_mib = frozen->memory_mib;
    shell.vcpus = frozen->vcpus;
    shell.image_path = frozen->image_path;
    shell.cpu_template = frozen->cpu_template;
    return instance_restore(&shell, &parts, ret_instance, err);
}

int function_snapshot_restore(const struct function_snapshot_config *config,
                              const struct snapshot_manifest *manifest,
                              struct instance **ret_instance, struct error *err)
{
    __attribute__((cleanup(function_frozen_done))) struct function_frozen frozen = {.memory_fd = -1,
                                                                                    .state_fd = -1};
    int r = function_snapshot_open(config, manifest, &frozen, err);

    return r < 0 ? r : function_frozen_restore(&config->instance, &frozen, ret_instance, err);
}

/* One run is enough: what two runs of a function touch is nine tenths the same. */
int function_snapshot_learn(const struct function_snapshot_config *config,
                            const struct snapshot_manifest *manifest, struct instance *instance,
                            struct error *err)
{
    struct snapshot_extents pages;
    struct snapshot_info info;
    int r = snapshot_store_inspect(config->snapshots, manifest->id, &info, err);

    if (r < 0 || info.has_working_set)
        return r;
    r = instance_working_set(instance, &pages, err);
    if (r < 0)
        return r;
    r = snapshot_store_set_working_set(config->snapshots, manifest, &pages, err);
    snapshot_extents_done(&pages);
    return r;
}
