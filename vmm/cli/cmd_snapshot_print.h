/* How snapshots are shown: to a person as a tree or a list of facts, to a program as JSON. */
#ifndef MAYFLY_CLI_CMD_SNAPSHOT_PRINT_H
#define MAYFLY_CLI_CMD_SNAPSHOT_PRINT_H

#include <jansson.h>

#include "snapshot/snapshot_store.h"

enum { SNAPSHOT_ID_SHOWN = 12 };

/* snapshot_to_json - all that is known of it; a new reference. */
json_t *snapshot_to_json(const struct snapshot_info *info);

/* snapshot_print_info - one fact a line. snapshot_print_tree - a line each, children below. */
void snapshot_print_info(const struct snapshot_info *info);
void snapshot_print_tree(const struct snapshot_info *list, size_t n);

#endif
