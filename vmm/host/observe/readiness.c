/* Readiness: see readiness.h. */
#include "readiness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/fd.h"
#include "host/runtime_images.h"

__attribute__((format(printf, 2, 3))) static void add(struct api_readiness *to, const char *format,
                                                      ...)
{
    va_list arguments;

    if (to->n == API_REASONS_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(to->reasons[to->n], sizeof(to->reasons[0]), format, arguments);
    va_end(arguments);
    to->n++;
}

static void check_store(const struct readiness_sources *sources, struct api_readiness *to)
{
    struct tenant tenant;
    struct error err;

    if (registry_get_tenant(sources->registry, sources->tenant, &tenant, &err) < 0)
        add(to, "the store cannot be read: %.160s", err.text);
}

static void check_kvm(const struct readiness_sources *sources, struct api_readiness *to)
{
    const char *path = sources->kvm_path ? sources->kvm_path : "/dev/kvm";
    AUTO_FD fd = open(path, O_RDWR | O_CLOEXEC);
    struct error err;

    if (fd >= 0)
        return;
    error_set(&err, errno, "open %s", path);
    add(to, "no microVM can be started: %.160s", err.text);
}

/* Those of one runtime are enough: functions of another are refused when they are made. */
static void check_images(const struct readiness_sources *sources, struct api_readiness *to)
{
    struct error err = {.text = "there is no runtime"};
    const char *name;

    for (size_t i = 0; (name = runtime_name(i)); i++)
        if (runtime_check_images(sources->images_path, sources->kernel, name, &err) == 0)
            return;
    add(to, "no runtime has its images: %.160s", err.text);
}

/* None is ready, none is being made, and the last that was to be made could not be. */
static void check_shells(const struct readiness_sources *sources, struct api_readiness *to)
{
    struct shell_pool_status status;

    shell_pool_get_status(sources->shells, &status);
    if (status.shapes > 0 && status.ready == 0 && status.making == 0 && status.last_error.code != 0)
        add(to, "no shell can be made: %.160s", status.last_error.text);
}

void readiness_check(const struct readiness_sources *sources, struct api_readiness *ret_readiness)
{
    ret_readiness->n = 0;
    if (sources->is_stopping)
        add(ret_readiness, "it is being stopped");
    check_store(sources, ret_readiness);
    check_kvm(sources, ret_readiness);
    check_images(sources, ret_readiness);
    if (sources->shells)
        check_shells(sources, ret_readiness);
}
