// Lists the directory that its last argument names, in the order of names: directories with a slash behind them.
// With -r also what is below, by path from there. Status 1 when something cannot be read.

#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_entry(const struct dirent *entry) { return strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."); }

// A new string, on the heap: the stack is small, and trees are deep.
static char *join(const char *first, const char *second, const char *third) {
    char *joined = malloc(strlen(first) + strlen(second) + strlen(third) + 1);
    if (!joined) abort();
    return strcat(strcat(strcpy(joined, first), second), third);
}

static int list(const char *top, const char *below, int recursive) {
    char *path = join(top, "/", below);
    struct dirent **entries;
    int count = scandir(path, &entries, is_entry, alphasort), status = count < 0;
    if (status) perror(path);
    for (int i = 0; i < count; i++) {
        int is_directory = entries[i]->d_type == DT_DIR;
        char *inner = join(below, entries[i]->d_name, is_directory ? "/" : "");
        puts(inner);
        if (recursive && is_directory) status |= list(top, inner, recursive);
        free(inner);
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    free(path);
    return status;
}

int main(int argc, char **argv) {
    int recursive = argc > 1 && !strcmp(argv[1], "-r");
    return list(argc > 1 + recursive ? argv[1 + recursive] : "/", "", recursive) | (fflush(stdout) != 0);
}
