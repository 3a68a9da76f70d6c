/* What the commands share: see cli_common.h. Process: the CLI. */
#include "cli_common.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/bytes.h"
#include "common/fd.h"

static volatile sig_atomic_t interrupted;
static int interrupt_event = -1; /* written by the handler, never read: stays readable */

static void __attribute__((format(printf, 2, 0)))
say(const char *command, const char *format, va_list arguments)
{
    char line[2048];

    vsnprintf(line, sizeof(line), format, arguments);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    fprintf(stderr, "mayfly%s%s: %s\n", command[0] ? " " : "", command, line);
}

void cli_complain(const char *command, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
}

int cli_usage(const char *command, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try 'mayfly%s%s --help'.\n", command[0] ? " " : "", command);
    return CLI_USAGE;
}

static void on_interrupt(int number)
{
    int saved = errno;
    uint64_t one = 1;

    (void)number;
    interrupted = 1;
    if (write(interrupt_event, &one, sizeof(one)) < 0)
        interrupted = 1; /* it is full: readable already */
    errno = saved;
}

int cli_catch_interrupts(const volatile sig_atomic_t **ret_flag)
{
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: calls give way */

    interrupt_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (interrupt_event < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        sigaction(caught[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (ret_flag)
        *ret_flag = &interrupted;
    return interrupt_event;
}

bool cli_interrupted(void)
{
    return interrupted;
}

bool cli_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < min || value > max)
        return false;
    *ret = value;
    return true;
}

bool cli_parse_seconds(const char *text, uint64_t min_ms, uint64_t max_ms, uint64_t *ret_ms)
{
    char *end;

    if (strspn(text, "0123456789.") != strlen(text) || text[0] == '\0')
        return false;
    double seconds = strtod(text, &end);
    if (*end != '\0' || seconds > (double)max_ms / 1000.0 || seconds < (double)min_ms / 1000.0)
        return false;
    *ret_ms = (uint64_t)(seconds * 1000.0 + 0.5);
    return true;
}

const char *cli_state_directory(const char *given)
{
    const char *variable = getenv("MAYFLY_STATE");

    if (given)
        return given;
    return variable && variable[0] ? variable : "/var/lib/mayfly";
}

bool cli_colour(FILE *stream)
{
    const char *no_colour = getenv("NO_COLOR");

    return isatty(fileno(stream)) == 1 && !(no_colour && no_colour[0]);
}

void cli_print_text(FILE *to, const char *text, size_t len_bytes)
{
    const unsigned char *bytes = (const unsigned char *)text;

    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = bytes[i];
        /* C1 controls are two bytes in UTF-8, c2 80 to c2 9f. */
        bool is_c1 = c == 0xc2 && i + 1 < len_bytes && bytes[i + 1] >= 0x80 && bytes[i + 1] <= 0x9f;

        putc(is_c1 || c == 0x7f || (c < 0x20 && c != '\n' && c != '\t') ? '?' : c, to);
        i += is_c1;
    }
}

/* Waits until @fd has something. Returns 0, or -EINTR for Ctrl-C. */
static int wait_input(int fd, int interrupt_fd)
{
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = interrupt_fd, .events = POLLIN}};

    while (poll(fds, 2, -1) < 0)
        if (errno != EINTR || interrupted)
            return -errno;
    return fds[1].revents ? -EINTR : 0;
}

static int read_input(int fd, size_t limit, int interrupt_fd, uint8_t **ret_data, size_t *ret_len)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t used = 0, size = 0;

    for (;;) {
        int r = wait_input(fd, interrupt_fd);

        if (r < 0)
            return r;
        if (size - used < 2) {
            size = size ? 2 * size : 16384;
            uint8_t *grown = realloc(data, size);
            if (!grown)
                return -ENOMEM;
            data = grown;
        }
        ssize_t n = read(fd, data + used, size - used - 1);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n == 0)
            break;
        used += n > 0 ? (size_t)n : 0;
        if (used > limit)
            return -EFBIG;
    }
    data[used] = 0;
    *ret_data = mem_steal(&data);
    *ret_len = used;
    return 0;
}

int cli_read_input(const char *path, size_t limit_bytes, int interrupt_fd, uint8_t **ret_data,
                   size_t *ret_len_bytes, struct error *err)
{
    bool is_stdin = strcmp(path, "-") == 0;
    AUTO_FD opened = is_stdin ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (!is_stdin && opened < 0)
        return error_set(err, errno, "open '%s'", path);
    int r = read_input(is_stdin ? STDIN_FILENO : opened, limit_bytes, interrupt_fd, ret_data,
                       ret_len_bytes);
    if (r == -EFBIG)
        return error_say(err, EFBIG, "it has more than the %zu bytes allowed", limit_bytes);
    if (r == -EINTR)
        return error_say(err, EINTR, "interrupted");
    if (r < 0)
        return error_set(err, -r, "read %s", is_stdin ? "standard input" : path);
    return 0;
}

int cli_print_json(json_t *object, struct error *err)
{
    int r = json_dumpf(object, stdout, JSON_INDENT(2)) < 0 || putchar('\n') < 0 ? -EIO : 0;

    json_decref(object);
    if (fflush(stdout) != 0)
        r = -errno;
    return r < 0 ? error_set(err, -r, "write the result") : 0;
}
