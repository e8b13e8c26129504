/* Says by what it is executed: the link to it, errno of opening that for writing, whether it is sealed, and how many
 * descriptors are open.
 * As a zygote it says so in a file beside its socket. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef NOTE
static const char note[] __attribute__((used)) = NOTE;
#endif

int main(int argc, char **argv)
{
    char link[4096] = "", path[4096];
    FILE *out = stdout;
    int left = 0, refused, seals;

    for (int descriptor = 3; descriptor < 1024; descriptor++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
        if (readlink(path, link, sizeof link - 1) > 0)
            left += !strstr(link, "/slow-path."); /* that it holds */
        memset(link, 0, sizeof link);
    }
    if (readlink("/proc/self/exe", link, sizeof link - 1) < 0)
        return 2;
    refused = open("/proc/self/exe", O_WRONLY | O_TRUNC | O_CLOEXEC) < 0 ? errno : 0;
    seals = fcntl(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), F_GET_SEALS);
    seals = seals > 0 && seals & F_SEAL_WRITE;
    if (!strcmp(argv[argc - 1], "zygote")) {
        snprintf(path, sizeof path, "%s.report", argv[2]);
        out = fopen(path, "w");
    }
    fprintf(out, "%s\n%d\n%d\n%d\n", link, refused, seals, left);
    return fclose(out) ? 2 : 0;
}
