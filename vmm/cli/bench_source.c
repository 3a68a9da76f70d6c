/* The function that is restored and booted: see bench_source.h. Process: the CLI. */
#include "bench_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/instance/function_snapshot.h"
#include "host/instance/identity.h"

enum { INVOKE_TIMEOUT_MS = 60000 };

static const char code[] = "def handler(event, context):\n    return event\n";

struct bench_source {
    struct image_store *images;       /* owned, as are the next two */
    struct snapshot_store *snapshots; /* */
    struct package *package;
    struct stage_ticker *ticker; /* borrowed */
    char run_directory[PATH_MAX];
    int interrupt_fd;
};

/* --- the function ---------------------------------------------------------------------------- */

static int write_code(const char *path)
{
    AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    /* Modes are part of what a snapshot is found by: not left to the umask. */
    if (fd < 0 || fchmod(fd, 0644) < 0)
        return -errno;
    return fd_write_all(fd, code, sizeof(code) - 1);
}

/* A package is read whole when it is opened, so its directory may go at once. */
static int make_package(struct package **ret_package, struct error *err)
{
    char directory[] = "/tmp/mayfly-bench-XXXXXX", path[sizeof(directory) + 16];

    if (!mkdtemp(directory))
        return error_set(err, errno, "make a directory for the function");
    snprintf(path, sizeof(path), "%s/app.py", directory);
    int r = write_code(path);
    r = r < 0 ? error_set(err, -r, "write '%s'", path) : package_open(directory, ret_package, err);
    unlink(path);
    rmdir(directory);
    return r;
}

static struct instance_function function_of(const struct bench_source *source)
{
    return (struct instance_function){.runtime = "python3.11",
                                      .handler = "app.handler",
                                      .name = "bench-restore",
                                      .version = "$LATEST",
                                      .package = source->package};
}

/* --- opening --------------------------------------------------------------------------------- */

static int open_stores(struct bench_source *source, const char *state,
                       const volatile sig_atomic_t *interrupted, struct error *err)
{
    char images[PATH_MAX], snapshots[PATH_MAX];

    if (snprintf(images, sizeof(images), "%s/images", state) >= PATH_MAX ||
        snprintf(snapshots, sizeof(snapshots), "%s/snapshots", state) >= PATH_MAX ||
        snprintf(source->run_directory, sizeof(source->run_directory), "%s/run", state) >= PATH_MAX)
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    int r = image_store_open(images, &source->images, err);
    if (r < 0)
        return r;
    image_store_set_cancel(source->images, interrupted);
    r = snapshot_store_open(snapshots, &source->snapshots, err);
    if (r < 0)
        return r;
    snapshot_store_set_cancel(source->snapshots, interrupted);
    return 0;
}

int bench_source_open(const char *state, struct stage_ticker *ticker, int interrupt_fd,
                      const volatile sig_atomic_t *interrupted, struct bench_source **ret_source,
                      struct error *err)
{
    struct bench_source *source = calloc(1, sizeof(*source));

    if (!source)
        return error_set(err, ENOMEM, "open the stores");
    source->ticker = ticker;
    source->interrupt_fd = interrupt_fd;
    int r = open_stores(source, state, interrupted, err);
    if (r == 0)
        r = make_package(&source->package, err);
    if (r < 0) {
        bench_source_close(source);
        return r;
    }
    *ret_source = source;
    return 0;
}

void bench_source_close(struct bench_source *source)
{
    if (!source)
        return;
    image_store_close(source->images);
    snapshot_store_close(source->snapshots);
    package_free(source->package);
    free(source);
}

const char *bench_source_run_directory(const struct bench_source *source)
{
    return source->run_directory;
}

/* --- snapshots ------------------------------------------------------------------------------- */

static void on_stage(void *opaque, enum instance_stage stage)
{
    struct bench_source *source = opaque;

    stage_ticker_say_stage(source->ticker, stage);
}

static struct function_snapshot_config config_of(struct bench_source *source, uint32_t memory_mib)
{
    return (struct function_snapshot_config){.instance = {.hypervisor = &hypervisor_kvm,
                                                          .store = source->images,
                                                          .image = "python3.11",
                                                          .kernel = "linux-6.12",
                                                          .run_directory = source->run_directory,
                                                          .memory_mib = memory_mib,
                                                          .vcpus = 1,
                                                          .interrupt_fd = source->interrupt_fd,
                                                          .on_stage = on_stage,
                                                          .opaque = source},
                                             .snapshots = source->snapshots};
}

static int bad_result(const struct agent_result *result, struct error *err)
{
    return error_say(err, EIO, "the benchmark's own function failed in the guest: %s%.*s",
                     result->message,
                     (int)(result->payload_bytes < 300 ? result->payload_bytes : 300),
                     (const char *)result->payload);
}

static int make_snapshot(struct bench_source *source, const struct function_snapshot_config *config,
                         struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct instance_function function = function_of(source);
    struct instance *instance = NULL;
    struct agent_result result;
    char line[96];
    bool booted;
    int n = snprintf(line, sizeof(line), "no snapshot of a guest of %u MiB yet: making it\n",
                     config->instance.memory_mib);

    stage_ticker_write(source->ticker, line, (size_t)n);
    int r =
        function_snapshot_make(config, &function, &instance, &result, ret_manifest, &booted, err);
    if (r < 0)
        return r;
    if (!instance)
        r = bad_result(&result, err);
    agent_result_done(&result);
    instance_destroy(instance);
    return r;
}

static int load_state(struct bench_source *source, const struct snapshot_manifest *manifest,
                      struct bench_subject *subject, struct error *err)
{
    AUTO_FREE uint8_t *state = NULL;
    size_t len = 0;
    int r = snapshot_store_state(source->snapshots, manifest, &state, &len, err);

    if (r < 0)
        return r;
    subject->state_fd = memfd_create("mayfly-state", MFD_CLOEXEC);
    r = subject->state_fd < 0 ? -errno : fd_write_all(subject->state_fd, state, len);
    return r < 0 ? error_set(err, -r, "take the state") : 0;
}

static int load(struct bench_source *source, const struct snapshot_manifest *manifest,
                struct bench_subject *subject, struct error *err)
{
    struct image_info image;
    int r;

    stage_ticker_say(source->ticker, "unpacking the snapshot");
    r = snapshot_store_flatten(source->snapshots, manifest, &subject->memory_fd, NULL, err);
    if (r == 0)
        r = load_state(source, manifest, subject, err);
    if (r == 0)
        r = image_store_find(source->images, manifest->root_digests[0], &image, err);
    if (r == 0)
        r = image_store_raw(source->images, &image, &subject->image, NULL, err);
    return r;
}

int bench_source_subject(struct bench_source *source, uint32_t memory_mib,
                         struct bench_subject *ret_subject, struct error *err)
{
    struct function_snapshot_config config = config_of(source, memory_mib);
    struct instance_function function = function_of(source);
    struct bench_subject subject = {.memory_mib = memory_mib, .memory_fd = -1, .state_fd = -1};
    struct snapshot_manifest manifest;
    int r = function_snapshot_find(&config, &function, &manifest, err);

    if (r == -ENOENT || r == -EBADMSG)
        r = make_snapshot(source, &config, &manifest, err);
    if (r == 0)
        r = load(source, &manifest, &subject, err);
    stage_ticker_say(source->ticker, NULL);
    if (r < 0) {
        bench_subject_done(&subject);
        return error_wrap(err, "the snapshot of a guest of %u MiB", memory_mib);
    }
    subject.vcpus = manifest.vcpus;
    subject.created_s = manifest.created_s;
    *ret_subject = subject;
    return 0;
}

void bench_subject_done(struct bench_subject *subject)
{
    fd_close_at_exit(&subject->memory_fd);
    fd_close_at_exit(&subject->state_fd);
    free(subject->image);
    *subject = (struct bench_subject){.memory_fd = -1, .state_fd = -1};
}

/* --- boots ----------------------------------------------------------------------------------- */

/* @step has made @result; is it a good one? */
static int take(int r, struct agent_result *result, struct error *err)
{
    if (r < 0)
        return r;
    if (result->outcome != OUTCOME_OK)
        r = bad_result(result, err);
    agent_result_done(result);
    return r;
}

static int boot(struct bench_source *source, const struct instance_config *config,
                struct instance **ret_instance, struct bench_boot_times *times, struct error *err)
{
    struct instance_function function = function_of(source);
    char request[REQUEST_ID_BYTES];
    struct agent_event event = {
        .request_id = request, .data = "{}", .len_bytes = 2, .timeout_ms = INVOKE_TIMEOUT_MS};
    struct agent_result result;
    uint64_t began_ns = clock_now_ns();
    int r = instance_boot(config, ret_instance, err);

    times->agent_answers_ns = clock_now_ns() - began_ns;
    if (r == 0)
        r = take(instance_prepare(*ret_instance, &function, &result, err), &result, err);
    if (r == 0)
        r = identity_request(request, err);
    if (r == 0)
        r = take(instance_invoke(*ret_instance, &event, &result, err), &result, err);
    times->first_result_ns = clock_now_ns() - began_ns;
    return r;
}

int bench_source_boot(struct bench_source *source, uint32_t memory_mib,
                      struct bench_boot_times *ret_times, struct error *err)
{
    struct function_snapshot_config config = config_of(source, memory_mib);
    struct instance *instance = NULL;
    struct bench_boot_times times;
    int r = boot(source, &config.instance, &instance, &times, err);
    uint64_t began_ns = clock_now_ns();

    stage_ticker_say(source->ticker, NULL);
    instance_destroy(instance);
    times.teardown_ns = clock_now_ns() - began_ns;
    if (r < 0)
        return error_wrap(err, "the cold boot");
    *ret_times = times;
    return 0;
}
