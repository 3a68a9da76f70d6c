/* What the host's apt is set up with, for mmdebstrap: so that mirrors and proxies work here too. */
#ifndef MAYFLY_IMAGES_IMAGE_APT_H
#define MAYFLY_IMAGES_IMAGE_APT_H

#include "common/error.h"

enum { APT_SOURCES_MAX = 32 };

/* Files below /etc/apt that list archives of one Debian suite. */
struct apt_sources {
    char *files[APT_SOURCES_MAX]; /* owned */
    unsigned n;
};

/*
 * apt_find_sources - sources.list and sources.list.d/ files that name @suite (or its -updates,
 * -security) and the component main. -ENOENT if none does. Free with apt_sources_done().
 */
int apt_find_sources(const char *suite, struct apt_sources *ret_sources, struct error *err);
void apt_sources_done(struct apt_sources *sources);

/*
 * apt_write_options - an apt.conf at @path with the host's settings for reaching archives (proxies,
 * certificates, retries, credentials) and no others. @dump_path: a scratch file.
 */
int apt_write_options(const char *path, const char *dump_path, struct error *err);

#endif
