/*
 * One daemon a state directory: <state>/mayflyd.lock, held for the process's life. The kernel frees
 * it when the process ends, however it ends. `mayfly run` and its like need no lock: what they
 * share with a daemon (stores, instances' directories) has locks of its own.
 */
#ifndef MAYFLY_HOST_STATE_LOCK_H
#define MAYFLY_HOST_STATE_LOCK_H

#include "common/error.h"

/*
 * state_lock_take - *ret_fd is owned: closing it gives the lock up. Waits for no more than a
 * second: a process that was killed takes a moment to be gone. -EBUSY where another process has it;
 * the text says which, and what to do.
 */
int state_lock_take(const char *state, int *ret_fd, struct error *err);

#endif
