/* Showing snapshots: see cmd_snapshot_print.h. Process: the CLI. Manifests have been checked. */
#include "cli/cmd_snapshot_print.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576;
}

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *cpu_to_json(const struct snapshot_cpu *cpu)
{
    json_t *features = json_array();

    for (uint32_t i = 0; i < cpu->n_features; i++)
        json_array_append_new(features, json_sprintf("%08x", cpu->features[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o}", "vendor", cpu->vendor, "template",
                     cpu->template_name, "family", (json_int_t)cpu->family, "model",
                     (json_int_t)cpu->model, "stepping", (json_int_t)cpu->stepping, "xsave_bytes",
                     (json_int_t)cpu->xsave_bytes, "features", features);
}

json_t *snapshot_to_json(const struct snapshot_info *info)
{
    const struct snapshot_manifest *manifest = &info->manifest;
    json_t *roots = json_array();

    if (info->problem[0]) {
        json_decref(roots);
        return json_pack("{s:s, s:s}", "id", manifest->id, "problem", info->problem);
    }
    for (uint32_t i = 0; i < manifest->n_roots; i++)
        json_array_append_new(roots, json_string(manifest->root_digests[i]));
    return json_pack(
        "{s:s, s:s, s:b, s:s, s:s, s:I, s:I, s:s, s:o, s:s, s:s, s:s, s:o, s:I, s:s, s:I, s:I, "
        "s:I, s:I, s:I, s:b}",
        "id", manifest->id, "name", manifest->name, "named", info->is_named, "level",
        snapshot_level_name(manifest->level), "parent", manifest->parent, "memory_mib",
        (json_int_t)manifest->memory_mib, "vcpus", (json_int_t)manifest->vcpus, "kernel_digest",
        manifest->kernel_digest, "root_digests", roots, "runtime", manifest->runtime,
        "function_digest", manifest->function_digest, "configuration_digest",
        manifest->configuration_digest, "cpu", cpu_to_json(&manifest->cpu), "created_s",
        (json_int_t)manifest->created_s, "mayfly_version", manifest->mayfly_version, "state_bytes",
        (json_int_t)manifest->state.bytes, "data_pages", (json_int_t)manifest->data_pages,
        "zero_pages", (json_int_t)manifest->zero_pages, "stored_bytes",
        (json_int_t)info->stored_bytes, "cached_bytes", (json_int_t)info->cached_bytes,
        "working_set", info->has_working_set);
}

/* --- for a person ---------------------------------------------------------------------------- */

static void print_digest(const char *label, const char *digest)
{
    if (digest[0])
        printf("%-15s %s\n", label, digest);
}

void snapshot_print_info(const struct snapshot_info *info)
{
    const struct snapshot_manifest *manifest = &info->manifest;
    char made[32] = "";
    time_t created = (time_t)manifest->created_s;
    struct tm tm;

    if (gmtime_r(&created, &tm))
        strftime(made, sizeof(made), "%Y-%m-%d %H:%M:%S UTC", &tm);
    printf("name            %s%s\n", manifest->name,
           info->is_named ? "" : " (now stands for another snapshot)");
    printf("level           %s\nruntime         %s\n", snapshot_level_name(manifest->level),
           manifest->runtime[0] ? manifest->runtime : "-");
    printf("memory          %u MiB, %u vCPU%s\n", manifest->memory_mib, manifest->vcpus,
           manifest->vcpus == 1 ? "" : "s");
    printf("differs by      %.1f MiB of data, %.1f MiB of zeroes\n",
           mib(manifest->data_pages * (uint64_t)SNAPSHOT_PAGE_BYTES),
           mib(manifest->zero_pages * (uint64_t)SNAPSHOT_PAGE_BYTES));
    printf("at rest         %.2f MiB (state %.1f KiB)\n", mib(info->stored_bytes),
           (double)manifest->state.bytes / 1024);
    printf("flattened       %s%.1f MiB\n", info->cached_bytes ? "" : "not cached, ",
           mib(info->cached_bytes));
    printf("working set     %s\n", info->has_working_set ? "recorded" : "not recorded");
    printf("cpu             %s family %u model %u stepping %u%s%s\n", manifest->cpu.vendor,
           manifest->cpu.family, manifest->cpu.model, manifest->cpu.stepping,
           manifest->cpu.template_name[0] ? ", template " : "", manifest->cpu.template_name);
    printf("made            %s by mayfly %s\n", made, manifest->mayfly_version);
    print_digest("id", manifest->id);
    print_digest("parent", manifest->parent);
    print_digest("kernel", manifest->kernel_digest);
    for (uint32_t i = 0; i < manifest->n_roots; i++)
        print_digest("root image", manifest->root_digests[i]);
    print_digest("function", manifest->function_digest);
    print_digest("configuration", manifest->configuration_digest);
}

static void print_line(const struct snapshot_info *info, unsigned depth)
{
    const struct snapshot_manifest *manifest = &info->manifest;
    char name[2 * SNAPSHOT_DEPTH_MAX + SNAPSHOT_NAME_MAX + 3], cached[16] = "-";

    snprintf(name, sizeof(name), "%*s%s%s%s", (int)(2 * depth), "", info->is_named ? "" : "(",
             manifest->name, info->is_named ? "" : ")");
    if (info->cached_bytes)
        snprintf(cached, sizeof(cached), "%.1f", mib(info->cached_bytes));
    printf("%-28s %-9s %-12s %7u %9.2f %8s  %.*s\n", name, snapshot_level_name(manifest->level),
           manifest->runtime[0] ? manifest->runtime : "-", manifest->memory_mib,
           mib(info->stored_bytes), cached, SNAPSHOT_ID_SHOWN, manifest->id);
}

/* The children of @parent, each with its own below it. */
static void print_below(const struct snapshot_info *list, size_t n, const char *parent,
                        unsigned depth)
{
    for (size_t i = 0; i < n && depth < SNAPSHOT_DEPTH_MAX; i++)
        if (!list[i].problem[0] && strcmp(list[i].manifest.parent, parent) == 0) {
            print_line(&list[i], depth);
            print_below(list, n, list[i].manifest.id, depth + 1);
        }
}

static bool is_listed(const struct snapshot_info *list, size_t n, const char *id)
{
    for (size_t i = 0; i < n; i++)
        if (!list[i].problem[0] && strcmp(list[i].manifest.id, id) == 0)
            return true;
    return false;
}

void snapshot_print_tree(const struct snapshot_info *list, size_t n)
{
    printf("%-28s %-9s %-12s %7s %9s %8s  %s\n", "NAME", "LEVEL", "RUNTIME", "MIB", "AT REST",
           "CACHED", "ID");
    print_below(list, n, "", 0);
    for (size_t i = 0; i < n; i++) {
        const struct snapshot_manifest *manifest = &list[i].manifest;

        if (list[i].problem[0]) {
            printf("%.*s is of no use: %s\n", SNAPSHOT_ID_SHOWN, manifest->id, list[i].problem);
        } else if (manifest->parent[0] && !is_listed(list, n, manifest->parent)) {
            print_line(&list[i], 0);
            printf("  its parent %.*s is missing or damaged\n", SNAPSHOT_ID_SHOWN,
                   manifest->parent);
            print_below(list, n, manifest->id, 1);
        }
    }
}
