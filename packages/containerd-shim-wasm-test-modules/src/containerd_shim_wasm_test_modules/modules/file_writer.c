// Writes its standard input into the file that its argument names, made anew; status 1 when it cannot.

#include <stdio.h>

int main(int argc, char **argv) {
    char piece[4096];
    const char *path = argc > 1 ? argv[1] : "/file";
    FILE *file = fopen(path, "w");
    if (file) {
        for (size_t size; (size = fread(piece, 1, sizeof piece, stdin));) fwrite(piece, 1, size, file);
        int failed = ferror(file);
        if (!fclose(file) && !failed) return 0;
    }
    perror(path);
    return 1;
}
