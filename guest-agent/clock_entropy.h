/* What the host knows better than a guest: the time, and randomness that no other guest has. */
#ifndef MAYFLY_AGENT_CLOCK_ENTROPY_H
#define MAYFLY_AGENT_CLOCK_ENTROPY_H

#include "guest-agent/agent.h"

/* agent_set_clock - set CLOCK_REALTIME to @wall_clock_ns (0: leave it alone). 0 or -errno. */
int agent_set_clock(int64_t wall_clock_ns, struct failure *failure);

/*
 * agent_clock_ahead - set the clock decades ahead for a moment, until agent_clock_back(), which
 * does nothing if it is not. Nothing happens where the clock was never set: it is not the guest's
 * own.
 */
void agent_clock_ahead(void);
void agent_clock_back(void);

/*
 * agent_add_entropy - mix @data (1 to 512 bytes; none: do nothing) into the kernel's random
 * generator, credit all its bits, and make the generator use them at once. 0 or -errno.
 */
int agent_add_entropy(const uint8_t *data, size_t len_bytes, struct failure *failure);

#endif
