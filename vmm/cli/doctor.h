/* What `mayfly doctor` looks at: each check says what it found, and what to do about it. */
#ifndef MAYFLY_CLI_DOCTOR_H
#define MAYFLY_CLI_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

enum doctor_verdict { DOCTOR_GOOD, DOCTOR_SLOWER, DOCTOR_MISSING };

struct doctor_check {
    const char *name; /* a literal */
    enum doctor_verdict verdict;
    bool needed;        /* nothing runs without it */
    char detail[160];   /* what was found */
    const char *advice; /* a literal; "" when there is nothing to do */
};

enum { DOCTOR_MAX_CHECKS = 48 };

struct doctor {
    const char *state; /* the state directory; borrowed */
    size_t n;
    struct doctor_check checks[DOCTOR_MAX_CHECKS];
};

/* doctor_add - one more finding; what exceeds DOCTOR_MAX_CHECKS is a bug. The last line added is
 * marked as needed by doctor_need(). */
void doctor_add(struct doctor *doctor, const char *name, enum doctor_verdict verdict,
                const char *advice, const char *format, ...) __attribute__((format(printf, 5, 6)));
void doctor_need(struct doctor *doctor);

/* doctor_read_line - the first line of a small file, cleaned; false if it cannot be read. */
bool doctor_read_line(const char *path, char *line, size_t size);

/* The groups of checks, in the order they are shown. They add lines and never fail. */
void doctor_check_kvm(struct doctor *doctor);
void doctor_check_host(struct doctor *doctor);
void doctor_check_jail(struct doctor *doctor);
void doctor_check_software(struct doctor *doctor);
void doctor_check_images(struct doctor *doctor);

#endif
