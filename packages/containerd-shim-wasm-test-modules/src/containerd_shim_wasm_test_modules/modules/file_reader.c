// Copies the files that its arguments name to standard output; status 1 when one cannot be read.

#include <stdio.h>

int main(int argc, char **argv) {
    char piece[4096];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        for (size_t size; (size = fread(piece, 1, sizeof piece, file));) fwrite(piece, 1, size, stdout);
        fclose(file);
    }
    return fflush(stdout) != 0;
}
