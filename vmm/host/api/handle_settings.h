/* What CreateFunction and UpdateFunctionConfiguration have in common: see handle_settings.c. */
#ifndef MAYFLY_HOST_API_HANDLE_SETTINGS_H
#define MAYFLY_HOST_API_HANDLE_SETTINGS_H

#include "api_internal.h"

/* Settings as a client sent them; texts borrowed from the JSON. settings_input_done() it. */
struct settings_input {
    struct function_settings settings;
    struct text_pair *environment; /* owned */
};

/* settings_read - 0, or -1 after answering. */
int settings_read(struct api_turn *turn, const json_t *object, struct settings_input *ret_input);
/* settings_check_architecture - it may be left out, or this host's. */
int settings_check_architecture(struct api_turn *turn, const json_t *object);
void settings_input_done(struct settings_input *input);

#endif
