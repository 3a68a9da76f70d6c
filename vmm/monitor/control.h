/*
 * The monitor's end of the control protocol (control.proto). Trust: the peer is the host manager,
 * trusted, but every message is still checked before it is used: a confused host must get an error,
 * not a crash.
 */
#ifndef MAYFLY_MONITOR_CONTROL_H
#define MAYFLY_MONITOR_CONTROL_H

#include "common/error.h"
#include "common/loop.h"
#include "seccomp_filter.h"

struct control;

/*
 * control_new - serve requests that arrive on @socket (AF_UNIX SOCK_SEQPACKET, borrowed) on
 * @loop's thread, until the peer hangs up or asks for the end: then loop_stop(@loop, 0).
 * @way: of the filters that Start puts on every thread, this one included.
 */
int control_new(int socket, struct loop *loop, enum seccomp_way way, struct control **ret_control,
                struct error *err);
void control_free(struct control *control);

#endif
