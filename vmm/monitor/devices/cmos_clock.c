/* The clock of a PC's CMOS: see cmos_clock.h. */
#include "monitor/devices/cmos_clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum {
    REG_SECONDS = 0x00,
    REG_MINUTES = 0x02,
    REG_HOURS = 0x04,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_D = 0x0d,
    REG_CENTURY = 0x32,
    A_32768_HZ = 0x20, /* and no update in progress: each read is of one instant */
    B_24_HOURS = 0x02, /* and BCD digits, which is what every reader expects */
    D_VALID = 0x80,
};

struct cmos_clock {
    pthread_mutex_t lock;
    uint8_t selected;
    struct tm now; /* taken when the seconds are read: the rest of a reading is of that second */
};

int cmos_clock_new(struct cmos_clock **ret_clock, struct error *err)
{
    struct cmos_clock *clock = calloc(1, sizeof(*clock));

    if (!clock)
        return error_set(err, ENOMEM, "CMOS clock");
    pthread_mutex_init(&clock->lock, NULL);
    /* gmtime_r() looks for a time-zone file the first time: now, while files can be opened. */
    tzset();
    *ret_clock = clock;
    return 0;
}

void cmos_clock_free(struct cmos_clock *clock)
{
    if (!clock)
        return;
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}

static uint8_t bcd(int value)
{
    return (uint8_t)((value / 10) % 10 << 4 | value % 10);
}

static uint8_t read_register(struct cmos_clock *clock)
{
    time_t now;

    switch (clock->selected) {
    case REG_SECONDS:
        now = time(NULL);
        gmtime_r(&now, &clock->now);
        return bcd(clock->now.tm_sec);
    case REG_MINUTES:
        return bcd(clock->now.tm_min);
    case REG_HOURS:
        return bcd(clock->now.tm_hour);
    case REG_WEEKDAY:
        return bcd(clock->now.tm_wday + 1);
    case REG_DAY:
        return bcd(clock->now.tm_mday);
    case REG_MONTH:
        return bcd(clock->now.tm_mon + 1);
    case REG_YEAR:
        return bcd(clock->now.tm_year % 100);
    case REG_CENTURY:
        return bcd((clock->now.tm_year + 1900) / 100);
    case REG_A:
        return A_32768_HZ;
    case REG_B:
        return B_24_HOURS;
    case REG_D:
        return D_VALID;
    default:
        return 0;
    }
}

uint8_t cmos_clock_read(struct cmos_clock *clock, unsigned port)
{
    if (port != 1)
        return 0xff;
    pthread_mutex_lock(&clock->lock);
    uint8_t value = read_register(clock);
    pthread_mutex_unlock(&clock->lock);
    return value;
}

void cmos_clock_write(struct cmos_clock *clock, unsigned port, uint8_t value)
{
    if (port != 0)
        return;
    pthread_mutex_lock(&clock->lock);
    clock->selected = value & 0x7f; /* the top bit masks NMIs */
    pthread_mutex_unlock(&clock->lock);
}
