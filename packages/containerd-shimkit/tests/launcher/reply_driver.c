/* Judges many answers in one process: each a u32 length and so many bytes on stdin, for each a line on stdout.
 * An answer has exactly its own memory, so that the address sanitizer sees any look past its end. */
#include <stdio.h>
#include <stdlib.h>

#include "reply.h"

int main(void)
{
    uint32_t length;

    while (fread(&length, sizeof length, 1, stdin) == 1) {
        unsigned char *data = malloc(length ? length : 1);
        struct reply reply;
        unsigned long sum = 0;
        enum reply_verdict verdict;

        if (!data || fread(data, 1, length, stdin) != length)
            return 1;
        verdict = parse_reply(data, length, &reply);
        for (size_t i = 0; i < reply.out_length; i++)
            sum += reply.out[i];
        for (size_t i = 0; i < reply.err_length; i++)
            sum += 3ul * reply.err[i];
        printf("%d %d %d %zu %zu %lu\n", (int)verdict, reply.committed, reply.status, reply.out_length,
               reply.err_length, sum);
        fflush(stdout);
        free(data);
    }
    return 0;
}
