/*
 * The host's apt configuration: see image_apt.h. Trusted: only the administrator writes /etc/apt.
 */
#include "images/image_apt.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_child.h"

enum { SOURCE_MAX_BYTES = 1 << 20 };

static bool is_suite(const char *word, const char *suite)
{
    size_t len = strlen(suite);

    return strncmp(word, suite, len) == 0 &&
           (word[len] == 0 || word[len] == '-' || word[len] == '/');
}

/* Words of lines that are not comments; one-line and deb822 style look alike to this. */
static bool lists_suite(char *text, const char *suite)
{
    bool has_suite = false, has_main = false;
    char *line_state = NULL, *word_state = NULL;

    for (char *line = strtok_r(text, "\n", &line_state); line;
         line = strtok_r(NULL, "\n", &line_state)) {
        line += strspn(line, " \t");
        if (line[0] == '#')
            continue;
        for (char *word = strtok_r(line, " \t", &word_state); word;
             word = strtok_r(NULL, " \t", &word_state)) {
            has_suite = has_suite || is_suite(word, suite);
            has_main = has_main || strcmp(word, "main") == 0;
        }
    }
    return has_suite && has_main;
}

static int add_if_listed(const char *path, const char *suite, struct apt_sources *sources,
                         struct error *err)
{
    AUTO_FREE uint8_t *text = NULL;
    size_t len;
    int r = fd_read_file(path, SOURCE_MAX_BYTES, &text, &len, err);

    if (r < 0)
        return r;
    if (!lists_suite((char *)text, suite) || sources->n == APT_SOURCES_MAX)
        return 0;
    sources->files[sources->n] = strdup(path);
    if (!sources->files[sources->n])
        return error_set(err, ENOMEM, "read apt's sources");
    sources->n++;
    return 0;
}

int apt_find_sources(const char *suite, struct apt_sources *ret_sources, struct error *err)
{
    glob_t found = {0};
    int r = 0;

    *ret_sources = (struct apt_sources){0};
    glob("/etc/apt/sources.list", 0, NULL, &found);
    glob("/etc/apt/sources.list.d/*.list", GLOB_APPEND, NULL, &found);
    glob("/etc/apt/sources.list.d/*.sources", GLOB_APPEND, NULL, &found);
    for (size_t i = 0; r == 0 && i < found.gl_pathc; i++)
        r = add_if_listed(found.gl_pathv[i], suite, ret_sources, err);
    globfree(&found);
    if (r == 0 && ret_sources->n == 0)
        r = error_say(err, ENOENT,
                      "no file in /etc/apt/sources.list.d names suite '%s' with component main; "
                      "add one (the recipe's packages come from there)",
                      suite);
    if (r < 0)
        apt_sources_done(ret_sources);
    return r;
}

void apt_sources_done(struct apt_sources *sources)
{
    for (unsigned i = 0; i < sources->n; i++)
        free(sources->files[i]);
    sources->n = 0;
}

static bool is_about_transport(const char *line)
{
    static const char *const prefixes[] = {"Acquire::http", "Acquire::Retries", "Acquire::ForceIPv",
                                           "Acquire::Check-Valid-Until", "Acquire::Queue-Mode"};

    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (strncasecmp(line, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

int apt_write_options(const char *path, const char *dump_path, struct error *err)
{
    static const char *const dump[] = {"apt-config", "dump", NULL};
    static const char credentials[] = "Dir::Etc::netrc \"/etc/apt/auth.conf\";\n"
                                      "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n";
    AUTO_FREE uint8_t *text = NULL;
    size_t len;
    char *state = NULL;
    int r = child_run(
        &(struct child){.argv = dump, .log = dump_path, .stage = "read apt's settings"}, err);

    if (r == 0)
        r = fd_read_file(dump_path, SOURCE_MAX_BYTES, &text, &len, err);
    if (r < 0)
        return r;
    AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_set(err, errno, "make '%s'", path);
    r = fd_write_all(fd, credentials, strlen(credentials));
    for (char *line = strtok_r((char *)text, "\n", &state); r == 0 && line;
         line = strtok_r(NULL, "\n", &state))
        if (is_about_transport(line)) {
            r = fd_write_all(fd, line, strlen(line));
            if (r == 0)
                r = fd_write_all(fd, "\n", 1);
        }
    return r < 0 ? error_set(err, -r, "write '%s'", path) : 0;
}
