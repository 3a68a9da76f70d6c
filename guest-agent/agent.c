/* Failures, the console, and the end of the guest. Process: mayfly-agent. */
#include "guest-agent/agent.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

static const char *errno_words(int code)
{
    const char *words = strerrordesc_np(code);

    return words ? words : "unknown error";
}

int failure_set(struct failure *failure, int code, const char *format, ...)
{
    va_list args;
    int used;

    va_start(args, format);
    used = vsnprintf(failure->text, sizeof(failure->text), format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof(failure->text))
        snprintf(failure->text + used, sizeof(failure->text) - (size_t)used, ": %s",
                 errno_words(code));
    return -code;
}

int failure_say(struct failure *failure, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(failure->text, sizeof(failure->text), format, args);
    va_end(args);
    return -code;
}

__attribute__((format(printf, 1, 0))) static void say(const char *format, va_list args)
{
    char line[512];
    int prefix = snprintf(line, sizeof(line), "<3>mayfly-agent: ");
    size_t room = sizeof(line) - (size_t)prefix - 1;
    int used = vsnprintf(line + prefix, room, format, args);
    size_t len;
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        fd = open("/dev/console", O_WRONLY | O_CLOEXEC | O_NOCTTY);
    len = (size_t)prefix + (used < 0 ? 0 : (size_t)used >= room ? room - 1 : (size_t)used);
    line[len++] = '\n';
    if (write(fd < 0 ? STDERR_FILENO : fd, line, len) < 0 && fd >= 0)
        (void)!write(STDERR_FILENO, line, len);
    if (fd >= 0)
        close(fd);
}

void agent_say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
}

void agent_power_off(void)
{
    for (;;) {
        reboot(RB_AUTOBOOT);
        sleep(1);
    }
}

void agent_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
    agent_power_off();
}
