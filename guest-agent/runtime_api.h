/* The Runtime API's inside, for its tests: everybody else uses runtime.h. */
#ifndef MAYFLY_AGENT_RUNTIME_API_H
#define MAYFLY_AGENT_RUNTIME_API_H

#include "guest-agent/runtime.h"

/* runtime_api_reset - forget everything: the init phase begins. @host is borrowed until the end. */
void runtime_api_reset(const struct runtime_host *host);

/* runtime_api_adopt - serve the connected stream socket @fd, owned from now on; it is closed at
 * once if there are too many. */
void runtime_api_adopt(int fd);

#endif
