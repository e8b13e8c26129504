// Writes as many bytes as its argument says, in lines of 64, to standard output.

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    unsigned long long left = argc > 1 ? strtoull(argv[1], NULL, 10) : 1 << 20;
    static const char line[] = "the quick brown fox jumps over the lazy dog, again and again...\n";
    while (left) {
        size_t size = left < 64 ? (size_t)left : 64;
        if (fwrite(line, 1, size, stdout) != size) return 1;
        left -= size;
    }
    return fflush(stdout) != 0;
}
