// The demo program: something to start, to watch and to stop. Built by scripts/build-wasm for wasm32-wasi.
// It writes with write() alone: stdio would be four fifths of the binary, and all of that is compiled at a first start.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: wasi-demo-app [daemon]            sing for ever, a verse a second\n"
    "       wasi-demo-app echo WORD...        print the words\n"
    "       wasi-demo-app sleep SECONDS       wait, 0.5 for half a second\n"
    "       wasi-demo-app exit STATUS         end with that status, 0 to 255\n"
    "       wasi-demo-app write FILE WORD...  write the words into a file\n";

static const char VERSE[] =
    "A little box of wasm sat down beside a pod,\n"
    "it brought no libc with it, the kernel thought it odd.\n"
    "It asked for one small preopen and for a clock to keep,\n"
    "and every second, once a second, sang itself to sleep.\n\n";

static int put(int to, const char *text, size_t size) {
    while (size) {
        ssize_t written = write(to, text, size);
        if (written <= 0) return -1;
        text += written;
        size -= (size_t)written;
    }
    return 0;
}

static int put_text(int to, const char *text) { return put(to, text, strlen(text)); }

static int put_words(int to, int count, char **words, const char *end) {
    for (int i = 0; i < count; i++)
        if ((i && put_text(to, " ")) || put_text(to, words[i])) return -1;
    return put_text(to, end);
}

static int usage(const char *problem, const char *value) {
    put_text(STDERR_FILENO, problem);
    put_text(STDERR_FILENO, value);
    put_text(STDERR_FILENO, "\n");
    put_text(STDERR_FILENO, USAGE);
    return 1;
}

static int failed(const char *what) {
    const char *reason = strerror(errno);
    put_text(STDERR_FILENO, what);
    put_text(STDERR_FILENO, ": ");
    put_text(STDERR_FILENO, reason);
    put_text(STDERR_FILENO, "\n");
    return 1;
}

static int done(void) {
    put_text(STDERR_FILENO, "exiting\n");
    return 0;
}

static int sing(void) {
    struct timespec second = {.tv_sec = 1};
    while (put(STDOUT_FILENO, VERSE, sizeof VERSE - 1) == 0) nanosleep(&second, NULL);
    return failed("standard output");
}

static int echo(int count, char **words) {
    return put_words(STDOUT_FILENO, count, words, "\n") ? failed("standard output") : done();
}

// Digits of at most eight places; -1 for anything else. Moves *text behind them.
static long parse_digits(const char **text) {
    long value = 0;
    const char *first = *text;
    for (; **text >= '0' && **text <= '9'; (*text)++) {
        if (*text - first == 8) return -1;
        value = value * 10 + (**text - '0');
    }
    return *text == first ? -1 : value;
}

static int sleep_for(const char *seconds) {
    const char *rest = seconds;
    struct timespec time = {.tv_sec = *rest == '.' ? 0 : parse_digits(&rest)};
    int is_number = time.tv_sec >= 0;
    if (is_number && *rest == '.') {
        long unit = 100000000;
        is_number = *++rest != 0;
        for (; *rest >= '0' && *rest <= '9'; rest++, unit /= 10) time.tv_nsec += (*rest - '0') * unit;
    }
    if (!is_number || *rest) return usage("not a number of seconds: ", seconds);
    nanosleep(&time, NULL);
    return done();
}

static int exit_with(const char *status) {
    const char *rest = status;
    long value = parse_digits(&rest);
    if (value < 0 || value > 255 || *rest) return usage("not an exit status from 0 to 255: ", status);
    _Exit((int)value);
}

static int write_file(const char *path, int count, char **words) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (file < 0) return failed(path);
    if (put_words(file, count, words, "")) return failed(path);
    return close(file) ? failed(path) : done();
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "daemon";
    if (!strcmp(command, "daemon")) return argc > 2 ? usage("too many arguments for ", command) : sing();
    if (!strcmp(command, "echo")) return echo(argc - 2, argv + 2);
    if (!strcmp(command, "write"))
        return argc < 3 ? usage("no file for ", command) : write_file(argv[2], argc - 3, argv + 3);
    int is_sleep = !strcmp(command, "sleep");
    if (!is_sleep && strcmp(command, "exit")) return usage("unknown command: ", command);
    if (argc != 3) return usage(argc < 3 ? "no argument for " : "too many arguments for ", command);
    return is_sleep ? sleep_for(argv[2]) : exit_with(argv[2]);
}
