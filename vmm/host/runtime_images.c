/* Runtimes and their images: see runtime_images.h. */
#include "runtime_images.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "images/image_store.h"

/* "provided" runs what the function brings along: any image with an agent does. Lambda has it by
 * the name of its distribution, which a bootstrap rarely depends on. */
static const struct runtime runtimes[] = {
    {"python3.11", "python3.11", "python3.11"}, {"nodejs18.x", "nodejs18.x", "nodejs18.x"},
    {"provided", "provided", "base"},           {"provided.al2", "provided", "base"},
    {"provided.al2023", "provided", "base"},
};

const struct runtime *runtime_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(runtimes); i++)
        if (strcmp(runtimes[i].name, name) == 0)
            return &runtimes[i];
    return NULL;
}

const char *runtime_name(size_t index)
{
    return index < ARRAY_LEN(runtimes) ? runtimes[index].name : NULL;
}

static int check_not_empty(struct image_store *store, struct error *err)
{
    struct image_info *list = NULL;
    size_t n = 0;
    int r = image_store_list(store, &list, &n, err);

    free(list);
    if (r == 0 && n == 0)
        r = error_say(err, EAGAIN,
                      "this host has no images yet: its administrator must make them (mayfly image "
                      "build)");
    return r;
}

static int check(struct image_store *store, const char *kernel, const char *name, struct error *err)
{
    const struct runtime *runtime = runtime_find(name);
    const char *image = runtime ? runtime->image : name;
    struct image_info info;
    int r = check_not_empty(store, err);

    if (r < 0)
        return r;
    r = image_store_find(store, image, &info, err);
    if (r == -ENOENT)
        return error_say(err, ENOENT,
                         "this host has no image for the runtime '%s': its administrator must make "
                         "it (mayfly image build %s)",
                         name, image);
    if (r == 0)
        r = image_store_find(store, kernel, &info, err);
    if (r == -ENOENT)
        return error_say(err, ENOENT,
                         "this host has no guest kernel '%s': its administrator must add it "
                         "(mayfly image add-kernel)",
                         kernel);
    return r;
}

int runtime_check_images(const char *images_path, const char *kernel, const char *name,
                         struct error *err)
{
    struct image_store *store = NULL;
    int r = image_store_open(images_path, &store, err);

    if (r == 0)
        r = check(store, kernel, name, err);
    image_store_close(store);
    return r;
}
