/* What a zygote answers to a request that it has accepted: judged here, without any I/O. */
#ifndef LAUNCHER_REPLY_H
#define LAUNCHER_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPLY_HEADER 16
#define REPLY_MAX_OUTPUT (1u << 20)                        /* of stdout and stderr together */
#define REPLY_MAX (1 + REPLY_HEADER + REPLY_MAX_OUTPUT) /* with the byte that says "committed" */

enum reply_verdict { REPLY_UNFINISHED, REPLY_WHOLE, REPLY_BAD };

struct reply {
    bool committed;           /* standard input is being read: nobody else can carry the request out any more */
    uint8_t status;           /* this and what follows: only of a whole reply */
    const unsigned char *out; /* within the data */
    size_t out_length;
    const unsigned char *err;
    size_t err_length;
};

/* Judge all that has come after "accepted" so far. `committed` is set whatever the verdict. */
enum reply_verdict parse_reply(const unsigned char *data, size_t length, struct reply *reply);

#endif
