// Prints its arguments as "arg: X", its environment as "env: X=Y", then copies its standard input as it is.

#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
    char piece[4096];
    for (int i = 0; i < argc; i++) printf("arg: %s\n", argv[i]);
    for (char **each = environ; each && *each; each++) printf("env: %s\n", *each);
    for (size_t size; (size = fread(piece, 1, sizeof piece, stdin));) fwrite(piece, 1, size, stdout);
    return ferror(stdin) || fflush(stdout);
}
