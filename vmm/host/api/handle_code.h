/* Code that a client uploads: see handle_code.c. */
#ifndef MAYFLY_HOST_API_HANDLE_CODE_H
#define MAYFLY_HOST_API_HANDLE_CODE_H

#include "api_internal.h"

/*
 * A large upload takes three times its size while its JSON and base64 are undone: a few at a time,
 * the others wait with their bodies on disk, four of a tenant: of more, upload_begin() answers 429
 * (-1). It comes before the JSON is read; upload_end() when the code is staged, or will not be: it
 * frees the text in @code's ZipFile (may be NULL).
 */
int upload_begin(struct api_turn *turn);
void upload_end(struct api_turn *turn, json_t *code);

/* code_read - the zip in @object's ZipFile, checked and staged (code_staged_free() it). @where: how
 * the member is called in messages. 0, or -1 after answering. */
int code_read(struct api_turn *turn, const json_t *object, const char *where,
              struct code_staged **ret_staged);

#endif
