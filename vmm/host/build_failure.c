/* What a failed build means: see build_failure.h. */
#include "build_failure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { DELAY_FIRST_MS = 1000, DELAY_MAX_MS = 60000 };

/* What stays as it is until somebody changes something. */
static bool is_permanent(enum build_step step, int r)
{
    switch (-r) {
    case EINVAL:
    case ENOTSUP: /* Linux's EOPNOTSUPP as well */
    case EBADMSG:
    case E2BIG:
    case EFBIG:
    case ENAMETOOLONG:
        return true;
    case ENOENT: /* of the rest it may be /dev/kvm, or a program that is being replaced */
        return step != BUILD_STEP_MAKE;
    default:
        return false;
    }
}

static bool is_crash(int r)
{
    return r == -ECONNRESET || r == -EPROTO || r == -EPIPE;
}

static uint64_t delay_of(uint32_t tries)
{
    uint64_t delay_ms = tries < 16 ? (uint64_t)DELAY_FIRST_MS << tries : DELAY_MAX_MS;

    return delay_ms < DELAY_MAX_MS ? delay_ms : DELAY_MAX_MS;
}

static const char *code_of(enum build_step step, int r)
{
    if (step == BUILD_STEP_IMAGES && (r == -ENOENT || r == -EAGAIN))
        return "InvalidRuntime";
    return step == BUILD_STEP_CODE && r != -ENOENT ? "InvalidZipFileException" : "InternalError";
}

/* In words that help who reads them: what was wrong, and who can do what about it. */
static void describe(enum build_step step, int r, const struct error *err, char *to, size_t size)
{
    if (step == BUILD_STEP_IMAGES && (r == -ENOENT || r == -EAGAIN))
        snprintf(to, size, "%s", err->text); /* made for clients */
    else if (step == BUILD_STEP_CODE && is_permanent(step, r))
        snprintf(to, size, "The function's code is %s on this host: upload it again",
                 r == -ENOENT ? "missing" : "damaged");
    else if (is_crash(r))
        snprintf(to, size,
                 "The function's microVM ended while the function was initialised (its memory or "
                 "its own doing; this host's log has more)");
    else
        snprintf(to, size,
                 "This host could not make the function's snapshot (%s): its administrator finds "
                 "the reason in the log",
                 strerror(-r));
}

void build_judge(enum build_step step, int r, const struct error *err, uint32_t tries,
                 struct build_judgement *ret_judgement)
{
    uint32_t limit = is_crash(r) ? BUILD_CRASH_TRIES_MAX : BUILD_TRIES_MAX;

    *ret_judgement =
        (struct build_judgement){.is_final = is_permanent(step, r) || tries + 1 >= limit,
                                 .delay_ms = delay_of(tries),
                                 .code = code_of(step, r)};
    describe(step, r, err, ret_judgement->reason, sizeof(ret_judgement->reason));
}
