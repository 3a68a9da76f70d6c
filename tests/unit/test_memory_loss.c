/* Guest memory whose file is cut short: who notices, what is said, what stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/memory_loss.h"

enum { PAGE = 4096, PAGES = 8, CUT = 3 };

static sigjmp_buf way_out;
static char said[MEMORY_LOSS_TEXT_BYTES];

static void leave(void *opaque, const char *text)
{
    assert_ptr_equal(opaque, said);
    memcpy(said, text, sizeof(said));
    siglongjmp(way_out, 1);
}

static int make_file(void)
{
    int fd = memfd_create("memory", MFD_CLOEXEC);

    assert_true(fd >= 0);
    for (int i = 0; i < PAGES; i++) {
        char page[PAGE];

        memset(page, 'a' + i, sizeof(page));
        assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
    }
    return fd;
}

/* What a clone has, without the VM. */
static struct machine_memory clone_of(int fd)
{
    uint8_t *ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

    assert_ptr_not_equal(ram, MAP_FAILED);
    struct machine_memory memory = {
        .ram = ram, .ram_bytes = PAGES * PAGE, .file = {.fd = dup(fd), .bytes = PAGES * PAGE}};
    return memory;
}

/* Does reading @address end in leave()? */
static int is_lost(const uint8_t *address)
{
    if (sigsetjmp(way_out, 1))
        return 1;
    (void)*(const volatile uint8_t *)address;
    return 0;
}

static void a_page_beyond_the_cut_is_told_of(void **state)
{
    int fd = make_file();
    struct machine_memory one = clone_of(fd), other = clone_of(fd);

    (void)state;
    memory_loss_watch(&one, leave, said);
    one.ram[PAGE] = 'X';
    one.ram[(CUT + 1) * PAGE] = 'Y';
    assert_false(is_lost(one.ram + (PAGES - 1) * PAGE));
    assert_false(memory_loss_describe(&one, said));
    assert_int_equal(ftruncate(fd, CUT * PAGE), 0);
    assert_false(is_lost(one.ram)); /* below the cut all is as it was, in both */
    assert_int_equal(one.ram[PAGE], 'X');
    assert_int_equal(other.ram[PAGE], 'b');
    assert_int_equal(other.ram[2 * PAGE], 'c');
    said[0] = '\0';
    assert_true(is_lost(one.ram + (PAGES - 1) * PAGE + 17));
    assert_string_equal(said, "the memory file of this VM was truncated at 12288 of 32768 bytes: "
                              "restore again ('mayfly snapshot verify' checks the rest)");
    assert_true(is_lost(one.ram + (CUT + 1) * PAGE)); /* a copy of its own goes as well */
    memory_loss_unwatch();
    machine_memory_done(&one);
    machine_memory_done(&other);
    close(fd);
}

static void a_system_call_that_fails_leads_there_too(void **state)
{
    int fd = make_file(), pipes[2];
    struct machine_memory memory = clone_of(fd);
    struct iovec windows[] = {{.iov_base = memory.ram, .iov_len = 10},
                              {.iov_base = memory.ram + 2 * PAGE + 5, .iov_len = 2 * PAGE}};

    (void)state;
    memory_loss_watch(&memory, leave, said);
    guest_memory_touch(windows, 2);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(ftruncate(fd, CUT * PAGE), 0);
    assert_int_equal(write(pipes[1], memory.ram + CUT * PAGE, 1), -1);
    assert_int_equal(errno, EFAULT);
    said[0] = '\0';
    if (!sigsetjmp(way_out, 1)) {
        guest_memory_touch(windows, 2);
        fail();
    }
    assert_non_null(strstr(said, "truncated at 12288"));
    memory_loss_unwatch();
    machine_memory_done(&memory);
    close(pipes[0]);
    close(pipes[1]);
    close(fd);
}

static void a_root_image_has_words_of_its_own(void **state)
{
    int fd = make_file();
    struct machine_memory memory = {.n_pmem = 1};
    char text[MEMORY_LOSS_TEXT_BYTES];

    (void)state;
    memory.pmem[0].host = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    memory.pmem[0].len_bytes = PAGES * PAGE;
    memory.pmem[0].file = (struct memory_file){.fd = dup(fd), .bytes = PAGES * PAGE};
    assert_int_equal(ftruncate(fd, 0), 0);
    memory_loss_watch(&memory, leave, said);
    assert_true(is_lost(memory.pmem[0].host));
    assert_non_null(strstr(said, "the root image of this VM was truncated at 0 of 32768 bytes"));
    assert_true(memory_loss_describe(&memory, text));
    assert_string_equal(text, said);
    memory_loss_unwatch();
    machine_memory_done(&memory);
    close(fd);
}

/* A SIGBUS that is not the guest's memory's is a bug, and must not be explained away. */
static void another_bus_error_kills(void **state)
{
    int fd = make_file(), status;
    struct machine_memory memory = clone_of(fd);
    const uint8_t *elsewhere = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);

    (void)state;
    assert_int_equal(ftruncate(fd, 0), 0);
    pid_t child = fork();
    if (child == 0) {
        memory_loss_watch(&memory, leave, said);
        (void)*(const volatile uint8_t *)elsewhere;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    munmap((void *)(uintptr_t)elsewhere, PAGES * PAGE);
    machine_memory_done(&memory);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_beyond_the_cut_is_told_of),
        cmocka_unit_test(a_system_call_that_fails_leads_there_too),
        cmocka_unit_test(a_root_image_has_words_of_its_own),
        cmocka_unit_test(another_bus_error_kills),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
