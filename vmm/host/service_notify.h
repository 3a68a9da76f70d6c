/*
 * Telling the service manager how the daemon is: systemd's notification protocol, which is one
 * datagram. Process: the daemon's main thread. Source: sd_notify(3), "Notes".
 */
#ifndef MAYFLY_HOST_SERVICE_NOTIFY_H
#define MAYFLY_HOST_SERVICE_NOTIFY_H

/* service_notify - @state ("READY=1", "STOPPING=1") to $NOTIFY_SOCKET. 0, also where nobody asks;
 * else -errno. */
int service_notify(const char *state);

#endif
