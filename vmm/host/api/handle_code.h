/* Code that a client uploads: see handle_code.c. */
#ifndef MAYFLY_HOST_API_HANDLE_CODE_H
#define MAYFLY_HOST_API_HANDLE_CODE_H

#include "api_internal.h"

/* code_read - the zip in @object's ZipFile, checked and staged (code_staged_free() it). @where: how
 * the member is called in messages. 0, or -1 after answering. */
int code_read(struct api_turn *turn, const json_t *object, const char *where,
              struct code_staged **ret_staged);

#endif
