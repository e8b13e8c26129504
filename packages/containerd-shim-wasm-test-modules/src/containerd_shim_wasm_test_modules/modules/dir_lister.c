// Lists the directory that its argument names, a line an entry; status 1 when it cannot.

#include <dirent.h>
#include <stdio.h>

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "/";
    DIR *directory = opendir(path);
    if (!directory) {
        perror(path);
        return 1;
    }
    for (struct dirent *entry; (entry = readdir(directory));) puts(entry->d_name);
    return closedir(directory);
}
