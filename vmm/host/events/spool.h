/*
 * The file spool: records as lines of JSON in <directory>/<tenant>/<name>.jsonl, for whoever
 * collects them. Who takes them away renames the file first: the next record makes a new one.
 *
 * Promises: what spool_append() returned 0 for is on disk, as one whole line; a line that a kill
 * cut short is taken away before the next is written. Trust: tenant and name are checked again
 * here, and the kernel is told to resolve them beneath the directory and over no link: nothing that
 * a tenant says, nor a link that somebody put there, leads outside. Bounded: a tenant's files
 * together, their number; what is over that is refused until something is taken away. Process:
 * mayflyd; nobody else writes there. Threads: any, at the same time.
 */
#ifndef MAYFLY_HOST_EVENTS_SPOOL_H
#define MAYFLY_HOST_EVENTS_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { SPOOL_FILES_MAX = 256 }; /* of a tenant */

struct spool;

/* spool_open - @directory is made if it is not there (its parent must be). @tenant_bytes: of each
 * tenant's files together; 0: 1 GiB. */
int spool_open(const char *directory, uint64_t tenant_bytes, struct spool **ret_spool,
               struct error *err);
void spool_close(struct spool *spool);

/*
 * spool_append - @line is JSON: line breaks in it (blanks, to JSON) become blanks, one is put after
 * it. -EINVAL for bad names, -ENOSPC and -EDQUOT (the tenant's bound), -EIO, …; nothing of it is in
 * the file then.
 */
int spool_append(struct spool *spool, const char *tenant, const char *name, const void *line,
                 size_t len_bytes, struct error *err);

#endif
