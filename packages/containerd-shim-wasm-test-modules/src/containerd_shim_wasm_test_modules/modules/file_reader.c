// Copies the files that its arguments name to standard output; status 1 when one cannot be read.

#include <stdio.h>

static int copy(const char *path) {
    char piece[4096];
    FILE *file = fopen(path, "r");
    if (file) {
        for (size_t size; (size = fread(piece, 1, sizeof piece, file));) fwrite(piece, 1, size, stdout);
        if (!ferror(file)) return fclose(file);
    }
    perror(path);
    return 1;
}

int main(int argc, char **argv) {
    int status = 0;
    for (int i = 1; i < argc; i++) status |= copy(argv[i]);
    return status | (fflush(stdout) != 0);
}
