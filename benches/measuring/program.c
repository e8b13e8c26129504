// The native program of the benchmarks, static: what a container runs at the least. Its commands are the demo program's.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int echo(int count, char **words) {
    for (int i = 0; i < count; i++)
        if (write(1, words[i], strlen(words[i])) < 0 || write(1, i + 1 < count ? " " : "\n", 1) < 0) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    if (!strcmp(argv[1], "echo")) return echo(argc - 2, argv + 2);
    if (!strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (!strcmp(argv[1], "sleep")) return (int)sleep((unsigned)atoi(argv[2]));
    return 2;
}
