// Says "ready" and sleeps for ever.

#include <stdio.h>
#include <time.h>

int main(void) {
    struct timespec hour = {.tv_sec = 3600};
    puts("ready");
    fflush(stdout);
    for (;;) nanosleep(&hour, NULL);
}
