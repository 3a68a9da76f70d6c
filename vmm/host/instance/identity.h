/* Names that must never repeat: of requests and of instances. From the kernel's random numbers. */
#ifndef MAYFLY_HOST_INSTANCE_IDENTITY_H
#define MAYFLY_HOST_INSTANCE_IDENTITY_H

#include "common/error.h"

enum { REQUEST_ID_BYTES = 37, INSTANCE_ID_BYTES = 17 };

/* identity_request - a UUID, version 4, as text (RFC 4122 §4.4). 0 or -errno. */
int identity_request(char ret_id[REQUEST_ID_BYTES], struct error *err);

/* identity_instance - 16 hexadecimal digits. 0 or -errno. */
int identity_instance(char ret_id[INSTANCE_ID_BYTES], struct error *err);

#endif
