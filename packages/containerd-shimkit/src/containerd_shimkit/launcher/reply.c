/* The layout is in zygote/messages.py:
 *   optionally "C"; "SKR1", u32 exit status, u32 length of stdout, u32 length of stderr; both outputs. Little-endian. */
#include "reply.h"

#include <string.h>

static const unsigned char magic[4] = {'S', 'K', 'R', '1'};

static uint32_t number_at(const unsigned char *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

enum reply_verdict parse_reply(const unsigned char *data, size_t length, struct reply *reply)
{
    uint32_t status, out_length, err_length;
    size_t known;

    memset(reply, 0, sizeof *reply);
    if (length == 0)
        return REPLY_UNFINISHED;
    if (data[0] == 'C') {
        reply->committed = true;
        data++;
        length--;
    }
    known = length < sizeof magic ? length : sizeof magic;
    if (memcmp(data, magic, known) != 0)
        return REPLY_BAD;
    if (length < REPLY_HEADER)
        return REPLY_UNFINISHED;
    status = number_at(data + 4);
    out_length = number_at(data + 8);
    err_length = number_at(data + 12);
    /* each on its own first: their sum might wrap */
    if (status > 255 || out_length > REPLY_MAX_OUTPUT || err_length > REPLY_MAX_OUTPUT - out_length)
        return REPLY_BAD;
    data += REPLY_HEADER;
    length -= REPLY_HEADER;
    if (length > (size_t)out_length + err_length)
        return REPLY_BAD;
    if (length < (size_t)out_length + err_length)
        return REPLY_UNFINISHED;
    reply->status = (uint8_t)status;
    reply->out = data;
    reply->out_length = out_length;
    reply->err = data + out_length;
    reply->err_length = err_length;
    return REPLY_WHOLE;
}
