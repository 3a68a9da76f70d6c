/* Frames and the protobuf messages in them, as either end would read them from a hostile peer. */
#include <stddef.h>
#include <stdint.h>

#include "agent.pb-c.h"
#include "guest-agent/proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame frame;

    while (frame_parse(data, size, &frame) == 1) {
        mayfly__agent__host_message__free_unpacked(
            mayfly__agent__host_message__unpack(NULL, frame.message_bytes, frame.message), NULL);
        mayfly__agent__agent_message__free_unpacked(
            mayfly__agent__agent_message__unpack(NULL, frame.message_bytes, frame.message), NULL);
        data += frame.total_bytes;
        size -= frame.total_bytes;
    }
    return 0;
}
