/* The registry on disk: code, backup, full disks, damage, other processes, threads. */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "host/events/event_queue.h"
#include "host/instance/package.h"
#include "images/image_sha256.h"
#include "registry_fixture.h"

static size_t count_files(const char *path)
{
    DIR *directory = opendir(path);
    size_t n = 0;

    assert_non_null(directory);
    for (struct dirent *item; (item = readdir(directory));)
        n += strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0;
    closedir(directory);
    return n;
}

/* --- code ----------------------------------------------------------------------------------------
 */

static int stage(struct registry_fixture *f, const void *zip, size_t len, struct error *err)
{
    struct code_staged *staged = NULL;
    int r = code_store_stage(registry_code_store(f->registry), zip, len, &staged, err);

    code_staged_free(staged);
    return r;
}

static void test_code_is_kept_once_and_whole(void **state)
{
    struct registry_fixture *f = *state;
    struct function *one, *two;
    struct error err = {0};
    uint8_t *data, digest[SHA256_BYTES];
    char path[256], hex[65];
    uint64_t freed = 1;
    size_t len;

    fixture_create(f, "one", "same");
    fixture_create(f, "two", "same");
    fixture_create(f, "three", "other");
    assert_int_equal(count_files(fixture_path(f, "code")), 2);
    one = fixture_find(f, "one", NULL);
    two = fixture_find(f, "two", NULL);
    assert_string_equal(one->code_sha256, two->code_sha256);
    assert_int_equal(code_store_path(registry_code_store(f->registry), one->code_sha256, path,
                                     sizeof(path), &err),
                     0);
    assert_int_equal(fd_read_file(path, 1 << 20, &data, &len, &err), 0);
    assert_int_equal(len, one->code_bytes);
    assert_int_equal(sha256_of(data, len, digest), 0);
    sha256_hex(digest, hex);
    assert_non_null(strstr(path, hex));
    free(data);
    function_free(one);
    function_free(two);
    /* One user gone: the code stays. Both gone: collected, once. */
    struct function_key key = fixture_key("one", NULL);
    assert_int_equal(registry_delete(f->registry, &key, &err), 0);
    assert_int_equal(registry_collect(f->registry, &freed, &err), 0);
    assert_int_equal(freed, 0);
    key = fixture_key("two", NULL);
    assert_int_equal(registry_delete(f->registry, &key, &err), 0);
    assert_int_equal(registry_collect(f->registry, &freed, &err), 0);
    assert_int_equal(freed, len);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(count_files(fixture_path(f, "code")), 1);
    fixture_create(f, "one", "same");
    assert_int_equal(access(path, F_OK), 0);
}

static void test_what_was_staged_leaves_nothing(void **state)
{
    struct registry_fixture *f = *state;
    struct code_staged *staged = fixture_stage(f, "x");
    struct function_key key = fixture_key("a b", NULL);
    struct error err = {0};

    assert_int_equal(count_files(fixture_path(f, "code")), 1);
    fixture_expect(
        registry_create_function(f->registry, &key, &fixture_settings, staged, NULL, 0, NULL, &err),
        EINVAL, &err, "name");
    code_staged_free(staged);
    assert_int_equal(count_files(fixture_path(f, "code")), 0);
}

static void test_leftovers_are_swept(void **state)
{
    struct registry_fixture *f = *state;
    char name[80];
    uint64_t freed = 0;
    struct error err = {0};

    fixture_create(f, "f", "x");
    /* As after a kill between renaming and committing, and in the midst of staging; and a file that
     * is none of ours. */
    memset(name, 0, sizeof(name));
    strcpy(name, "code/");
    memset(name + 5, 'a', 64);
    strcpy(name + 69, ".zip");
    const char *const left[] = {name, "code/.tmp-0123456789abcdef", "code/README"};
    for (size_t i = 0; i < 3; i++) {
        int fd = open(fixture_path(f, left[i]), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, "left", 4), 4);
        close(fd);
    }
    struct code_staged *staged = fixture_stage(f, "in use");
    fixture_expect(registry_collect(f->registry, &freed, &err), 0, &err, "");
    assert_int_equal(freed, 4);
    assert_int_equal(count_files(fixture_path(f, "code")), 3); /* x, README, what is staged now */
    code_staged_free(staged);
}

static void add(struct archive *archive, const char *path, unsigned type, const char *link,
                size_t len)
{
    struct archive_entry *entry = archive_entry_new();
    static char zeros[1 << 20];

    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (int64_t)len);
    if (link)
        archive_entry_set_symlink(entry, link);
    assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
    for (size_t done = 0; done < len; done += sizeof(zeros))
        archive_write_data(archive, zeros, len - done < sizeof(zeros) ? len - done : sizeof(zeros));
    archive_entry_free(entry);
}

static void refuse_entry(struct registry_fixture *f, const char *path, unsigned type,
                         const char *link, size_t len, const char *words)
{
    struct archive *archive = archive_write_new();
    struct error err = {0};
    size_t size = 4 << 20, used = 0;
    uint8_t *zip = malloc(size);

    assert_non_null(zip);
    archive_write_set_format_zip(archive);
    archive_write_set_bytes_in_last_block(archive, 1);
    assert_int_equal(archive_write_open_memory(archive, zip, size, &used), ARCHIVE_OK);
    add(archive, path, type, link, len);
    archive_write_close(archive);
    archive_write_free(archive);
    fixture_expect(stage(f, zip, used, &err), EINVAL, &err, words);
    assert_null(strstr(err.text, "/proc"));
    assert_null(strstr(err.text, f->state));
    assert_int_equal(count_files(fixture_path(f, "code")), 0);
    free(zip);
}

static void test_hostile_zips(void **state)
{
    struct registry_fixture *f = *state;
    uint8_t *zip;
    size_t len;
    struct error err = {0};

    refuse_entry(f, "../../etc/passwd", AE_IFREG, NULL, 1, "leads out");
    refuse_entry(f, "/etc/passwd", AE_IFREG, NULL, 1, "absolute");
    refuse_entry(f, "link", AE_IFLNK, "/etc/passwd", 0, "outside");
    refuse_entry(f, "bomb", AE_IFREG, NULL, (size_t)PACKAGE_MAX_BYTES + 1, "250 MB");
    fixture_expect(stage(f, "", 0, &err), EINVAL, &err, "not a zip");
    fixture_expect(stage(f, "PK\3\4", 4, &err), EINVAL, &err, "zip");
    fixture_expect(stage(f, "<html>nothing here</html>", 25, &err), EINVAL, &err, "not a zip");
    fixture_expect(stage(f, "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22, &err), EINVAL, &err,
                   "something in it");
    fixture_zip("app.py", "x", 1, &zip, &len);
    for (size_t cut = 0; cut < len; cut += 7)
        assert_int_not_equal(stage(f, zip, cut < 30 ? cut : 30, &err), 0);
    free(zip);
    zip = calloc(1, (size_t)PACKAGE_MAX_ARCHIVE_BYTES + 1);
    assert_non_null(zip);
    fixture_expect(stage(f, zip, (size_t)PACKAGE_MAX_ARCHIVE_BYTES + 1, &err), E2BIG, &err,
                   "50 MB");
    free(zip);
    assert_int_equal(count_files(fixture_path(f, "code")), 0);
}

static void test_code_names(void **state)
{
    struct registry_fixture *f = *state;
    struct code_store *store = registry_code_store(f->registry);
    const char *const bad[] = {"",
                               "../../../../../../../../../../../etc/passwd=",
                               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
                               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
                               " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="};
    char path[256], small[20];
    struct error err = {0};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        fixture_expect(code_store_path(store, bad[i], path, sizeof(path), &err), EINVAL, &err,
                       "base64");
    const char *good = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    fixture_expect(code_store_path(store, good, path, sizeof(path), &err), 0, &err, "");
    fixture_expect(code_store_path(store, good, small, sizeof(small), &err), ENAMETOOLONG, &err,
                   "too long");
}

static void test_staging_a_file(void **state)
{
    struct registry_fixture *f = *state;
    struct code_store *store = registry_code_store(f->registry);
    struct code_staged *memory = fixture_stage(f, "x"), *staged = NULL;
    struct error err = {0};
    uint8_t *zip;
    size_t len;

    fixture_zip("app.py", "x", 1, &zip, &len);
    int fd = open(fixture_path(f, "code.zip"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, zip, len), len);
    close(fd);
    fixture_expect(code_store_stage_file(store, fixture_path(f, "code.zip"), &staged, &err), 0,
                   &err, "");
    assert_string_equal(code_staged_sha256(staged), code_staged_sha256(memory));
    code_staged_free(staged);
    code_staged_free(memory);
    fixture_expect(code_store_stage_file(store, f->state, &staged, &err), EINVAL, &err, "no file");
    fixture_expect(code_store_stage_file(store, "/nowhere", &staged, &err), ENOENT, &err, "");
    free(zip);
}

/* --- opening and copies --------------------------------------------------------------------------
 */

static void sql(struct registry_fixture *f, const char *file, const char *text)
{
    sqlite3 *handle;

    assert_int_equal(sqlite3_open(fixture_path(f, file), &handle), SQLITE_OK);
    if (sqlite3_exec(handle, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(handle));
    sqlite3_close(handle);
}

static int open_state(const char *path, struct error *err)
{
    struct registry_options options = {.state = path};
    struct registry *registry = NULL;
    int r = registry_open(&options, &registry, err);

    registry_close(registry);
    return r;
}

static void test_reopening(void **state)
{
    struct registry_fixture *f = *state;
    struct stat st;

    fixture_create(f, "f", "x");
    fixture_publish(f, "f");
    fixture_close_registry(f);
    fixture_open_again(f);
    function_free(fixture_find(f, "f", "1"));
    assert_int_equal(stat(fixture_path(f, "mayfly.db"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(fixture_path(f, "code"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void test_databases_that_are_not_ours(void **state)
{
    struct registry_fixture *f = *state;
    struct error err = {0};
    char path[128], right_version[64];

    snprintf(right_version, sizeof(right_version), "PRAGMA user_version = %d",
             (int)fixture_number(f, "PRAGMA user_version"));
    fixture_close_registry(f);
    snprintf(path, sizeof(path), "%s/new", f->state);
    assert_int_equal(mkdir(path, 0700), 0);
    sql(f, "new/mayfly.db", "CREATE TABLE songs (name)");
    fixture_expect(open_state(path, &err), EBADMSG, &err, "not Mayfly's");
    sql(f, "mayfly.db", "PRAGMA user_version = 99");
    fixture_expect(open_state(f->state, &err), ENOTSUP, &err, "version 99");
    /* Noise. */
    int fd = open(fixture_path(f, "new/mayfly.db"), O_WRONLY | O_TRUNC | O_CLOEXEC);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(write(fd, "noise noise noise\n", 18), 18);
    close(fd);
    fixture_expect(open_state(path, &err), EBADMSG, &err, "database");
    sql(f, "mayfly.db", right_version);
    fixture_open_again(f);
}

/* As the first release left it: brought up to date, with what is in it. */
static void test_older_database(void **state)
{
    struct registry_fixture *f = *state;
    AUTO_FREE uint8_t *text = NULL;
    struct tenant tenant;
    struct error err = {0};
    size_t len;

    if (fd_read_file("tests/unit/data/registry_version_1.sql", 64 * 1024, &text, &len, &err) < 0)
        fail_msg("%s (run from the top of the source tree)", err.text);
    fixture_close_registry(f);
    for (const char *const *end = (const char *const[]){"", "-wal", "-shm", NULL}; *end; end++) {
        char name[32];

        snprintf(name, sizeof(name), "mayfly.db%s", *end);
        unlink(fixture_path(f, name));
    }
    sql(f, "mayfly.db", (const char *)text);
    fixture_open_again(f);
    struct function *function = fixture_find(f, "f", NULL);
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    assert_string_equal(function->reason_code, "");
    function_free(function);
    /* What it has since: an update that keeps the old build, turns of builds, sums. */
    fixture_build(f, "g", NULL);
    fixture_change(f, "f", "y");
    assert_int_equal(fixture_publish(f, "f"), 1);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM versions"), 3);
    function = fixture_find(f, "f", NULL);
    fixture_expect(registry_get_tenant(f->registry, "alice", &tenant, &err), 0, &err, "");
    assert_int_equal(tenant.code_bytes, 100 + 2 * function->code_bytes);
    function_free(function);
}

static void test_damaged_rows(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function *function = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    sql(f, "mayfly.db", "UPDATE versions SET environment = x'41'");
    fixture_expect(registry_find(f->registry, &key, -1, &function, &err), EBADMSG, &err, "damaged");
    sql(f, "mayfly.db", "UPDATE versions SET environment = x'4100'");
    fixture_expect(registry_find(f->registry, &key, -1, &function, &err), EBADMSG, &err, "damaged");
    sql(f, "mayfly.db", "UPDATE versions SET environment = x'41004200', number = 0");
    fixture_expect(registry_find(f->registry, &key, -1, &function, &err), 0, &err, "");
    function_free(function);
}

/* Another process looks into the database and goes: what is written afterwards is on disk, too. */
static void test_other_process_looks(void **state)
{
    struct registry_fixture *f = *state;
    char command[256];

    fixture_create(f, "before", "x");
    snprintf(command, sizeof(command),
             "python3 -c \"import sqlite3; c = sqlite3.connect('%s');"
             " c.execute('select count(*) from functions').fetchone(); c.close()\"",
             fixture_path(f, "mayfly.db"));
    assert_int_equal(system(command), 0);
    assert_int_equal(access(fixture_path(f, "mayfly.db-wal"), F_OK), 0);
    fixture_create(f, "after", "y");
    fixture_close_registry(f);
    fixture_open_again(f);
    function_free(fixture_find(f, "after", NULL));
}

static void test_backup(void **state)
{
    struct registry_fixture *f = *state;
    char path[128];
    struct error err = {0};

    fixture_create(f, "f", "x");
    snprintf(path, sizeof(path), "%s/copy.db", f->state);
    fixture_expect(registry_backup(f->registry, path, &err), 0, &err, "");
    fixture_create(f, "g", "x");
    /* The copy is of then, whole, and a state of its own once it has its name. */
    assert_int_equal(mkdir(fixture_path(f, "other"), 0700), 0);
    char target[128];
    snprintf(target, sizeof(target), "%s/other/mayfly.db", f->state);
    assert_int_equal(rename(path, target), 0);
    struct registry_fixture other = {0};
    assert_true((size_t)snprintf(other.state, sizeof(other.state), "%s/other", f->state) <
                sizeof(other.state));
    fixture_open_again(&other);
    function_free(fixture_find(&other, "f", NULL));
    assert_int_equal(fixture_number(&other, "SELECT count(*) FROM functions"), 1);
    assert_int_equal(fixture_number(&other, "SELECT count(*) FROM pragma_integrity_check"
                                            " WHERE integrity_check = 'ok'"),
                     1);
    fixture_close_registry(&other);
    /* Over an older one; where it cannot be. */
    fixture_expect(registry_backup(f->registry, target, &err), 0, &err, "");
    assert_int_equal(fixture_number(&other, "SELECT count(*) FROM functions"), 2);
    fixture_expect(registry_backup(f->registry, "/nowhere/x", &err), ENOENT, &err, "/nowhere/x");
    fixture_expect(registry_backup(f->registry, "/tmp/", &err), EINVAL, &err, "no file");
    for (size_t i = 0; i < 2; i++) /* nothing temporary stays */
        assert_int_equal(count_files(i ? f->state : fixture_path(f, "other")) <= 6, 1);
}

/* --- full disks ----------------------------------------------------------------------------------
 */

/* Files that may not grow fail like full disks, with EFBIG for ENOSPC. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Half a megabyte that does not compress. */
static void noise_zip(unsigned seed, uint8_t **ret_zip, size_t *ret_len)
{
    enum { BYTES = 512 * 1024 };
    uint8_t *noise = malloc(BYTES);

    assert_non_null(noise);
    for (size_t i = 0; i < BYTES; i++)
        noise[i] = (uint8_t)(rand_r(&seed) >> 8);
    fixture_zip("app.py", noise, BYTES, ret_zip, ret_len);
    free(noise);
}

static void test_files_that_may_not_grow(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("g", NULL);
    struct error err = {0};
    uint8_t *zip;
    size_t len;
    int r[2];

    fixture_create(f, "f", "x");
    noise_zip(1, &zip, &len);
    struct code_staged *small = fixture_stage(f, "y");
    struct error errs[2] = {0};
    limit_files(1000);
    r[0] = stage(f, zip, len, &errs[0]);
    r[1] = registry_create_function(f->registry, &key, &fixture_settings, small, NULL, 0, NULL,
                                    &errs[1]);
    limit_files(RLIM_INFINITY);
    fixture_expect(r[0], ENOSPC, &errs[0], "keep the code");
    fixture_expect(r[1], ENOSPC, &errs[1], "");
    /* Nothing of it is there, everything else goes on. */
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM functions"), 1);
    assert_int_equal(count_files(fixture_path(f, "code")), 1);
    code_staged_free(small);
    small = fixture_stage(f, "y");
    fixture_expect(
        registry_create_function(f->registry, &key, &fixture_settings, small, NULL, 0, NULL, &err),
        0, &err, "");
    code_staged_free(small);
    assert_int_equal(count_files(fixture_path(f, "code")), 2);
    free(zip);
}

/* In a child with a file system of 3 MB: functions until it is full, events until it is full. */
static void fill_disk(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct error err = {0};
    struct function_page page;
    unsigned made = 0;
    int r = 0;

    fixture_open_again(f);
    struct tenant alice = {.name = "alice", .account_id = "000000000001"};
    fixture_expect(registry_put_tenant(f->registry, &alice, &err), 0, &err, "");
    fixture_create(f, "f", "x");
    while (r == 0 && made < 20) {
        struct code_staged *code = NULL;
        char name[32];
        uint8_t *zip;
        size_t len;

        snprintf(name, sizeof(name), "n%u", made);
        struct function_key many = fixture_key(name, NULL);
        noise_zip(made, &zip, &len);
        r = code_store_stage(registry_code_store(f->registry), zip, len, &code, &err);
        if (r == 0)
            r = registry_create_function(f->registry, &many, &fixture_settings, code, NULL, 0, NULL,
                                         &err);
        code_staged_free(code);
        free(zip);
        made += r == 0;
    }
    fixture_expect(r, ENOSPC, &err, "");
    assert_in_range(made, 1, 10);
    fixture_expect(registry_list(f->registry, "alice", true, NULL, 0, &page, &err), 0, &err, "");
    assert_int_equal(page.n, made + 1);
    function_page_done(&page);
    assert_int_equal(count_files(fixture_path(f, "code")), made + 1);

    struct event_queue_options options = {.sole = true};
    struct event_queue *queue = NULL;
    struct event_queue_stats stats;
    char payload[20000], id[REQUEST_ID_BYTES];
    uint64_t accepted = 0;
    memset(payload, '1', sizeof(payload));
    fixture_expect(event_queue_open(registry_database(f->registry), &options, &queue, &err), 0,
                   &err, "");
    for (r = 0; r == 0 && accepted < 1000; accepted += r == 0) {
        assert_int_equal(identity_request(id, &err), 0);
        r = event_queue_enqueue(queue,
                                &(struct event_submission){.key = key,
                                                           .request_id = id,
                                                           .payload = payload,
                                                           .payload_len_bytes = sizeof(payload)},
                                &err);
    }
    fixture_expect(r, ENOSPC, &err, "");
    fixture_expect(event_queue_stats(queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.depth, accepted);
    event_queue_close(queue);
    fixture_close_registry(f);
}

static void test_a_full_disk(void **state)
{
    struct registry_fixture *f = *state, inner = {0};
    int status;

    assert_true((size_t)snprintf(inner.state, sizeof(inner.state), "%s/small", f->state) <
                sizeof(inner.state));
    assert_int_equal(mkdir(inner.state, 0700), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if ((unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("none", inner.state, "tmpfs", 0, "size=3m") < 0)
            _exit(77);
        /* A group of its own, so that a failure ends there; its lines are not this program's. */
        const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(fill_disk, &inner)};
        if (!freopen("/dev/null", "w", stdout))
            _exit(78);
        _exit(cmocka_run_group_tests(tests, NULL, NULL));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* no name space of its own may be made here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- processes and threads -----------------------------------------------------------------------
 */

/* In a child of its own, with a registry of its own. Exit status 0: all went well. */
static pid_t fork_writer(struct registry_fixture *f, const char *tenant, int n)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    struct registry_options options = {.state = f->state};
    struct registry *registry = NULL;
    struct error err = {0};
    int failed = registry_open(&options, &registry, &err) != 0;
    for (int i = 0; i < n && !failed; i++) {
        char name[32];
        struct function_key key = {tenant, name, NULL};
        struct code_staged *code = NULL;
        uint8_t *zip;
        size_t len;

        snprintf(name, sizeof(name), "f%d", i);
        fixture_zip("app.py", name, strlen(name), &zip, &len);
        failed = code_store_stage(registry_code_store(registry), zip, len, &code, &err) != 0 ||
                 registry_create_function(registry, &key, &fixture_settings, code, NULL, 0, NULL,
                                          &err) != 0;
        code_staged_free(code);
        free(zip);
    }
    if (failed)
        fprintf(stderr, "%s\n", err.text);
    registry_close(registry);
    _exit(failed);
}

static void test_two_processes(void **state)
{
    struct registry_fixture *f = *state;
    pid_t pids[2];
    int status;

    fixture_close_registry(f); /* connections do not cross fork() */
    pids[0] = fork_writer(f, "alice", 25);
    pids[1] = fork_writer(f, "bob", 25);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    fixture_open_again(f);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM functions"), 50);
    assert_int_equal(fixture_number(f, "SELECT sum(uses) FROM code"), 50);
    assert_int_equal(count_files(fixture_path(f, "code")), 25);
}

enum { READERS = 6, READS = 300 };

struct reader {
    struct registry *registry;
    int failed;
};

static void *read_many(void *opaque)
{
    struct function_key key = {"alice", "f", NULL};
    struct reader *reader = opaque;

    for (int i = 0; i < READS; i++) {
        struct function *function = NULL;
        struct error err = {0};

        if (registry_find(reader->registry, &key, -1, &function, &err) != 0)
            reader->failed++;
        else if (function->timeout_s != function->memory_mib - 127)
            reader->failed++; /* half of a change */
        function_free(function);
    }
    return NULL;
}

static void test_readers_see_whole_changes(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function_settings settings = {
        .members = SETS_TIMEOUT | SETS_MEMORY, .timeout_s = 1, .memory_mib = 128};
    struct reader readers[READERS];
    pthread_t threads[READERS];
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), 0,
                   &err, "");
    fixture_build(f, "f", NULL);
    for (size_t i = 0; i < READERS; i++) {
        readers[i] = (struct reader){f->registry, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_many, &readers[i]), 0);
    }
    for (int i = 2; i < 40; i++) {
        settings.timeout_s = i;
        settings.memory_mib = 127 + i;
        fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, NULL, &err), 0,
                       &err, "");
        fixture_build(f, "f", NULL);
    }
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].failed, 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_code_is_kept_once_and_whole),
        TEST(test_what_was_staged_leaves_nothing),
        TEST(test_leftovers_are_swept),
        TEST(test_hostile_zips),
        TEST(test_code_names),
        TEST(test_staging_a_file),
        TEST(test_reopening),
        TEST(test_databases_that_are_not_ours),
        TEST(test_older_database),
        TEST(test_damaged_rows),
        TEST(test_other_process_looks),
        TEST(test_backup),
        TEST(test_files_that_may_not_grow),
        TEST(test_a_full_disk),
        TEST(test_two_processes),
        TEST(test_readers_see_whole_changes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
