/* How the agent reaches its host. */
#ifndef MAYFLY_AGENT_TRANSPORT_H
#define MAYFLY_AGENT_TRANSPORT_H

#include "guest-agent/agent.h"

/*
 * agent_transport_connect - open the stream to the host: virtio-vsock to port AGENT_PORT of the
 * host (CID 2), or, where the guest has no vsock, the virtio-serial port "mayfly.agent".
 * @unix_path: not NULL only in tests: that socket instead.
 * Returns a blocking, close-on-exec fd, or -errno.
 */
int agent_transport_connect(const char *unix_path, struct failure *failure);

#endif
