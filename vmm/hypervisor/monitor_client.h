/*
 * The host's end of one monitor's control socket (monitor/control.proto).
 *
 * Trust: a monitor may have been taken over by its guest. Every datagram is bounded, every text is
 * cleaned before it is shown, an answer that does not parse ends the monitor's credit.
 * Threads: one at a time per client.
 */
#ifndef MAYFLY_HYPERVISOR_MONITOR_CLIENT_H
#define MAYFLY_HYPERVISOR_MONITOR_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "control.pb-c.h"
#include "hypervisor.h"
#include "jail.h"

struct monitor_client;

/* monitor_client_open - spawn a monitor and hold its control socket. *ret_client is owned.
 * @jail: as for monitor_spawn(); it must outlive the client. */
int monitor_client_open(const char *monitor_path, const char *name, struct jail *jail,
                        struct monitor_client **ret_client, struct error *err);

/*
 * monitor_client_request - send @request with @fds (borrowed) and wait for its Reply.
 * @ret_reply: owned, free with mayfly__monitor__reply__free_unpacked(); set only on success.
 * Returns 0; the error the monitor answered with; -ETIMEDOUT; -ECONNRESET with the reason once the
 * VM has ended; -EPROTO for an answer that makes no sense.
 */
int monitor_client_request(struct monitor_client *client, const Mayfly__Monitor__Request *request,
                           const int *fds, size_t n_fds, uint64_t timeout_ms,
                           Mayfly__Monitor__Reply **ret_reply, struct error *err);

/* monitor_client_poll - take in what has arrived (events, death). Never blocks. */
void monitor_client_poll(struct monitor_client *client);

/*
 * monitor_client_end - VM_ALIVE, or how the VM ended; *ret_text (may be NULL) is borrowed until the
 * client is closed. Call monitor_client_poll() before to have the latest.
 */
enum vm_end monitor_client_end(const struct monitor_client *client, const char **ret_text);

/* monitor_client_say_end - the end as an error: -ECONNRESET. */
int monitor_client_say_end(const struct monitor_client *client, struct error *err);

/* monitor_client_fd - readable when there is something to poll(), and forever after the end. */
int monitor_client_fd(const struct monitor_client *client);

/* monitor_client_pid - of the process, for reading /proc; it stays ours until the close. */
pid_t monitor_client_pid(const struct monitor_client *client);

/* monitor_client_close - ask it to stop, kill it if it does not, reap it. Takes NULL. */
void monitor_client_close(struct monitor_client *client);

#endif
