// Status 0 when every device that a container must have is there and is a character device.

#include <stdio.h>
#include <sys/stat.h>

int main(void) {
    const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
    for (int i = 0; i < 6; i++) {
        struct stat found;
        if (stat(devices[i], &found) || !S_ISCHR(found.st_mode)) {
            fprintf(stderr, "%s is missing\n", devices[i]);
            return 1;
        }
        printf("%s found\n", devices[i]);
    }
    return 0;
}
