// The demo program: something to start, to watch, and to stop. Built by scripts/build-wasm for wasm32-wasi.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const USAGE =
    "usage: wasi-demo-app [daemon]            sing for ever, a verse a second\n"
    "       wasi-demo-app echo WORD...        print the words\n"
    "       wasi-demo-app sleep SECONDS       wait\n"
    "       wasi-demo-app exit STATUS         end with that status, 0 to 125\n"
    "       wasi-demo-app write FILE WORD...  write the words into a file\n";

static const char *const VERSE =
    "A little box of wasm sat down beside a pod,\n"
    "it brought no libc with it, the kernel thought it odd.\n"
    "It asked for one small preopen and for a clock to keep,\n"
    "and every second, once a second, sang itself to sleep.\n\n";

static int usage(const char *problem, const char *value) {
    fprintf(stderr, "%s%s\n%s", problem, value, USAGE);
    return 1;
}

static void print_words(FILE *to, int count, char **words) {
    for (int i = 0; i < count; i++) fprintf(to, "%s%s", i ? " " : "", words[i]);
}

static int sleep_for(const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end || !(seconds >= 0 && seconds < 1e9)) return usage("not a number of seconds: ", text);
    struct timespec time = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
    return 0;
}

static int write_file(const char *path, int count, char **words) {
    FILE *file = fopen(path, "w");
    if (file) print_words(file, count, words);
    if (!file || fclose(file)) {
        perror(path);
        return 1;
    }
    return 0;
}

static int sing(void) {
    struct timespec second = {.tv_sec = 1};
    for (;;) {
        fputs(VERSE, stdout);
        fflush(stdout);
        nanosleep(&second, NULL);
    }
}

static int exit_with(const char *text) {
    char *end;
    long status = strtol(text, &end, 10);
    if (end == text || *end || status < 0 || status > 125) return usage("not an exit status: ", text);
    exit((int)status);
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "daemon";
    int status;
    if (!strcmp(command, "daemon")) return sing();
    if (!strcmp(command, "exit") && argc == 3) return exit_with(argv[2]);
    if (!strcmp(command, "echo")) {
        print_words(stdout, argc - 2, argv + 2);
        putchar('\n');
        status = 0;
    } else if (!strcmp(command, "sleep") && argc == 3) {
        status = sleep_for(argv[2]);
    } else if (!strcmp(command, "write") && argc >= 3) {
        status = write_file(argv[2], argc - 3, argv + 3);
    } else {
        const char *const known[] = {"sleep", "exit", "write"};
        for (int i = 0; i < 3; i++)
            if (!strcmp(command, known[i])) return usage("missing or too many arguments: ", command);
        return usage("unknown command: ", command);
    }
    fflush(stdout);
    if (status == 0) fputs("exiting\n", stderr);
    return status;
}
