// Prints its arguments, its environment, then its standard input, each line with what it is.

#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
    char line[4096];
    for (int i = 0; i < argc; i++) printf("arg: %s\n", argv[i]);
    for (char **each = environ; each && *each; each++) printf("env: %s\n", *each);
    while (fgets(line, sizeof line, stdin)) printf("stdin: %s", line);
    return 0;
}
