/* The program that containerd executes as containerd-shim-NAME-v1: it hands its command line, environment, current
 * directory and standard input to a warm process, the zygote, and gives back what comes as output and exit status.
 *
 * It stands in the way of every container, so it does little. Where no zygote takes the request it starts one, for a
 * `start`. Where there is none even then it executes the Python program instead (the slow path), which does the same
 * work; a few at once, no more, for a node that starts a thousand containers would otherwise start a thousand
 * interpreters. Once a zygote has said that it
 * will do the work, somebody else may do it only when that one is gone; and once it has read standard input, nobody.
 * Both interpreters are executed so that no container can write to them (seal.c).
 *
 * The command of the slow path is in the block below, where `containerd-shimkit install` has put it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "context.h"
#include "reply.h"
#include "seal.h"

#ifndef LAUNCHER_SOURCES /* a digest of these files, by which `containerd-shimkit status` knows an old build */
#define LAUNCHER_SOURCES "unknown"
#endif

#ifndef PATIENCE_MS
#define PATIENCE_MS 20000 /* then without a slot: better slow than not at all */
#endif
#define ACCEPT_MS 1000 /* a zygote answers within a millisecond, or hangs */
#define RETRY_MS 20
#define FALLBACKS 4
#define MAX_WORDS 16 /* of the embedded command */
#define MAX_BODY (1u << 20)
#define MAX_ARGUMENTS 64
#define MAX_VARIABLES 4096
#define HEADER 16
#define TITLE_ROOM 512 /* of a zygote's command line, in which its children show what they are */

/* One object, so that whoever keeps the block keeps the digest. launcher/block.py has the same layout. */
static struct {
    char marker[32];
    unsigned char count[4];
    char words[4060];
    char sources[64];
} embedded __attribute__((used, aligned(64))) = {
    .marker = "containerd-shimkit launcher: \x01", /* the version of the layout is its last byte but two */
    .sources = "launcher sources=" LAUNCHER_SOURCES,
};

static const char *program = "containerd-shim";
static unsigned char request[HEADER + MAX_BODY];
static size_t request_length;
static unsigned char answer[1 + REPLY_MAX];

static void say(const char *what, const char *detail)
{
    const char *pieces[] = {program, ": ", what, detail, "\n"};
    struct iovec vector[5];

    for (int i = 0; i < 5; i++) {
        vector[i].iov_base = (void *)(uintptr_t)pieces[i];
        vector[i].iov_len = strlen(pieces[i]);
    }
    if (writev(2, vector, 5) < 0)
        return; /* nobody is left to be told */
}

static __attribute__((noreturn)) void fail(const char *what, const char *detail)
{
    say(what, detail);
    _exit(1);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(long duration)
{
    struct timespec wanted = {duration / 1000, duration % 1000 * 1000000};

    nanosleep(&wanted, NULL); /* a signal shortens it: nothing depends on its length */
}

/* Give the embedded command's words, ended by a null pointer; or end here. */
static char **embedded_command(void)
{
    static char *words[MAX_WORDS + 1];
    /* past the optimizer, which knows that nobody in this program has ever put anything into the block */
    unsigned char *count = embedded.count;
    char *next = embedded.words, *end = embedded.words + sizeof embedded.words;
    uint32_t number;

    __asm__ volatile("" : "+r"(count), "+r"(next) : : "memory");
    number = (uint32_t)count[0] | (uint32_t)count[1] << 8 | (uint32_t)count[2] << 16 | (uint32_t)count[3] << 24;
    if (number == 0)
        fail("not installed: run containerd-shimkit install NAME", "");
    for (uint32_t i = 0; i < number && number <= MAX_WORDS; i++) {
        char *nul = memchr(next, 0, (size_t)(end - next));

        if (!nul)
            break;
        words[i] = next;
        next = nul + 1;
    }
    if (number > MAX_WORDS || !words[number - 1] || words[0][0] != '/')
        fail("the command embedded in this file is damaged: run containerd-shimkit install NAME", "");
    return words;
}

/* What is opened later must not become a standard stream of the program that is executed. */
static void fill_standard_streams(void)
{
    for (int stream = 0; stream < 3; stream++)
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            _exit(1);
}

/* Make the directory of sockets and slots, or see that it is ours alone. */
static bool ensure_directory(void)
{
    struct stat found;

    if (lstat(LAUNCHER_DIRECTORY, &found) < 0) {
        if (errno != ENOENT || (mkdir(LAUNCHER_DIRECTORY, 0700) < 0 && errno != EEXIST))
            return false;
        if (lstat(LAUNCHER_DIRECTORY, &found) < 0)
            return false;
    }
    return S_ISDIR(found.st_mode) && found.st_uid == geteuid() && !(found.st_mode & 077);
}

static void put_number(unsigned char *place, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        place[i] = (unsigned char)(number >> 8 * i);
}

/* Append strings to the request; false when they are more or longer than a zygote takes. */
static bool add_strings(char *const *strings, uint32_t limit, unsigned char *count)
{
    uint32_t number = 0;

    for (; strings[number]; number++) {
        size_t length = strlen(strings[number]) + 1;

        if (number == limit || length > sizeof request - request_length)
            return false;
        memcpy(request + request_length, strings[number], length);
        request_length += length;
    }
    put_number(count, number);
    return true;
}

static bool build_request(char *const *argv, char *const *envp)
{
    request_length = HEADER;
    memcpy(request, "SKZ1", 4);
    if (!argv[0] || !add_strings(argv, MAX_ARGUMENTS, request + 8) || !add_strings(envp, MAX_VARIABLES, request + 12))
        return false;
    put_number(request + 4, (uint32_t)(request_length - HEADER));
    return true;
}

/* Connect; where the zygote's queue is full, wait in the kernel until there is room or the socket's time is over. */
static bool connect_to(int connection, const char *path, int64_t deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    _Static_assert(SOCKET_PATH_SIZE <= sizeof address.sun_path, "LAUNCHER_DIRECTORY is too long for a socket");
    memcpy(address.sun_path, path, strlen(path) + 1);
    while (connect(connection, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR || now_ms() >= deadline)
            return false;
    return true;
}

/* Send the request; with its first byte go the current directory and standard input. What cannot be sent need not mean
 * that there is no answer: that shows when it is read. */
static void send_request(int connection, int here, int64_t deadline)
{
    int descriptors[2] = {here, 0};
    union {
        char room[CMSG_SPACE(sizeof descriptors)];
        struct cmsghdr header;
    } control = {{0}};
    size_t sent = 0;

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof descriptors);
    memcpy(CMSG_DATA(&control.header), descriptors, sizeof descriptors);
    while (sent < request_length) {
        struct iovec piece = {request + sent, request_length - sent};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
        ssize_t done;

        if (sent == 0) {
            message.msg_control = control.room;
            message.msg_controllen = sizeof control.room;
        }
        done = sendmsg(connection, &message, MSG_NOSIGNAL);
        if (done > 0)
            sent += (size_t)done;
        else if (errno != EINTR)
            return;
        if (now_ms() >= deadline)
            return;
    }
}

static bool wait_until_readable(int connection, int64_t deadline)
{
    struct pollfd wanted = {.fd = connection, .events = POLLIN};

    for (;;) {
        int64_t left = deadline - now_ms();
        int ready = poll(&wanted, 1, left > 0 ? (int)left : 0);

        if (ready > 0)
            return true;
        if (ready == 0 || errno != EINTR)
            return false;
    }
}

/* Read more of the answer; false at its end, and when the other side is gone. */
static bool read_more(int connection, size_t *length)
{
    for (;;) {
        ssize_t got = read(connection, answer + *length, sizeof answer - *length);

        if (got > 0)
            *length += (size_t)got;
        if (got >= 0 || errno != EINTR)
            return got > 0;
    }
}

static bool write_all(int stream, const unsigned char *data, size_t length)
{
    while (length > 0) {
        ssize_t done = write(stream, data, length);

        if (done >= 0) {
            data += done;
            length -= (size_t)done;
        } else if (errno == EAGAIN) { /* somebody has made it non-blocking */
            struct pollfd wanted = {.fd = stream, .events = POLLOUT};

            poll(&wanted, 1, -1);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* Give the reply as our own, and end. */
static __attribute__((noreturn)) void deliver(const struct reply *reply)
{
    bool written;

    signal(SIGPIPE, SIG_IGN); /* only here: what is executed would inherit it */
    written = write_all(1, reply->out, reply->out_length);
    written = write_all(2, reply->err, reply->err_length) && written;
    _exit(reply->status || written ? reply->status : 1);
}

/* Wait for what comes; returns only when the request has to be carried out by somebody else. */
static void receive(int connection, int64_t deadline)
{
    struct reply reply = {0};
    size_t length = 0;

    if (!wait_until_readable(connection, deadline))
        shutdown(connection, SHUT_RD); /* from now on nobody can accept it any more; what has come already counts */
    if (!read_more(connection, &length) || answer[0] != 'A')
        return;
    for (;;) {
        enum reply_verdict verdict = parse_reply(answer + 1, length - 1, &reply);

        if (verdict == REPLY_WHOLE)
            deliver(&reply);
        if (verdict == REPLY_BAD || !read_more(connection, &length))
            break;
    }
    if (reply.committed)
        fail("the process that carried this out was killed in the middle of it; try again", "");
}

/* Have a zygote carry the request out; returns only when there is none that does. */
static void ask(const char *path, int here)
{
    static const struct timeval limit = {ACCEPT_MS / 1000, ACCEPT_MS % 1000 * 1000};
    int64_t deadline = now_ms() + ACCEPT_MS;
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connection < 0)
        return;
    if (setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0
        && connect_to(connection, path, deadline)) {
        send_request(connection, here, deadline);
        receive(connection, deadline);
    }
    close(connection);
}

/* Take one of the slots of the slow path, which the program that is executed then holds; true also when there are none
 * to be had at all. */
static bool take_slot(void)
{
    static int slots[FALLBACKS];
    static bool opened;
    char path[] = LAUNCHER_DIRECTORY "/slow-path.0";
    bool any = false;

    for (int i = 0; i < FALLBACKS; i++) {
        path[sizeof path - 2] = (char)('0' + i);
        if (!opened)
            slots[i] = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (slots[i] < 0)
            continue;
        any = true;
        if (flock(slots[i], LOCK_EX | LOCK_NB) == 0) {
            fcntl(slots[i], F_SETFD, 0); /* held until that program ends */
            return true;
        }
    }
    opened = true;
    return !any;
}

enum start_verdict {
    ZYGOTE_READY,  /* one listens now */
    ZYGOTE_COMING, /* somebody else is starting one */
    ZYGOTE_FAILED,
};

/* In the child: become a zygote, which takes nothing of its caller along. Its standard error is *said*. */
static __attribute__((noreturn)) void become_zygote(char **command, const char *path, int said)
{
    static const unsigned char default_action[64]; /* the kernel's struct of any machine: all 0 is SIG_DFL */
    static char padding[TITLE_ROOM + 1];
    char *words[MAX_WORDS + 6], *environment[] = {NULL};
    sigset_t none;
    size_t count = 0;
    int null = open("/dev/null", O_RDWR);

    memset(padding, '-', TITLE_ROOM);
    for (; command[count]; count++)
        words[count] = command[count];
    words[count++] = (char *)(uintptr_t)"-socket";
    words[count++] = (char *)(uintptr_t)path;
    words[count++] = (char *)(uintptr_t)"-padding";
    words[count++] = padding;
    words[count++] = (char *)(uintptr_t)"zygote";
    words[count] = NULL;
    setsid();
    for (int number = 1; number < NSIG; number++) /* the call itself: the C library keeps two signals from others */
        syscall(SYS_rt_sigaction, number, default_action, NULL, 8);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null < 0 || dup2(said, 2) < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
        _exit(1);
    if (syscall(SYS_close_range, 3, ~0u, 0) < 0) /* Linux 5.9 */
        for (int descriptor = 3; descriptor < 1024; descriptor++)
            close(descriptor);
    execute_sealed(words, environment);
    _exit(1);
}

/* Wait for the word that it listens, which comes last; false for anything else that it says before it ends. */
static bool becomes_ready(int said, int64_t deadline)
{
    static const char ready[] = "\0ready";
    const size_t length = sizeof ready - 1;
    char tail[256];
    size_t kept = 0;

    while (wait_until_readable(said, deadline)) {
        ssize_t got = read(said, tail + kept, sizeof tail - kept);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return kept >= length && memcmp(tail + kept - length, ready, length) == 0;
        kept += (size_t)got;
        if (kept > length) {
            memmove(tail, tail + kept - length, length);
            kept = length;
        }
    }
    return false;
}

static uint64_t inode_of(const char *path)
{
    struct stat found;

    return lstat(path, &found) < 0 ? 0 : (uint64_t)found.st_ino;
}

/* Start a zygote in the place of the one that was at *path*, if any, when the caller last looked (*before*). One does
 * it at a time, by the same lock as zygote/client.py. */
static enum start_verdict start_zygote(char **command, const char *path, uint64_t before)
{
    static const char suffix[] = ".lock";
    char lock_path[SOCKET_PATH_SIZE + sizeof suffix];
    enum start_verdict verdict = ZYGOTE_FAILED;
    int said[2], lock;

    memcpy(lock_path, path, strlen(path) + 1);
    strcat(lock_path, suffix);
    lock = open(lock_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock < 0)
        return ZYGOTE_FAILED;
    if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        verdict = errno == EWOULDBLOCK ? ZYGOTE_COMING : ZYGOTE_FAILED;
    } else if (inode_of(path) != before && inode_of(path) != 0) {
        verdict = ZYGOTE_READY; /* it has come in the meantime */
    } else if (pipe2(said, O_CLOEXEC) == 0) {
        pid_t child = fork();

        if (child == 0)
            become_zygote(command, path, said[1]);
        close(said[1]);
        if (child > 0 && becomes_ready(said[0], now_ms() + PATIENCE_MS))
            verdict = ZYGOTE_READY;
        close(said[0]);
    }
    close(lock);
    return verdict;
}

/* Ask until a zygote has done it, or until this process may do it itself; *starts*: it may start a zygote, too. */
static void ask_repeatedly(char **command, const char *path, int here, bool starts)
{
    int64_t deadline = now_ms() + PATIENCE_MS;

    for (;;) {
        uint64_t before = inode_of(path);
        bool coming = false;

        ask(path, here);
        if (starts) {
            enum start_verdict verdict = start_zygote(command, path, before);

            if (verdict == ZYGOTE_READY)
                ask(path, here);
            coming = verdict == ZYGOTE_COMING;
            starts = coming; /* once is enough */
        }
        if (now_ms() >= deadline || (!coming && take_slot()))
            return;
        sleep_ms(RETRY_MS); /* whoever has a slot leaves a zygote behind */
    }
}

static size_t count_of(char *const *strings)
{
    size_t number = 0;

    while (strings[number])
        number++;
    return number;
}

/* The environment, with the path of this file in it, so that messages can name it. */
static char **environment_with_launcher(char **envp)
{
    static char variable[4200] = "CONTAINERD_SHIMKIT_LAUNCHER=";
    const size_t stem = strlen(variable);
    ssize_t length = readlink("/proc/self/exe", variable + stem, sizeof variable - stem - 1);
    char **environment = malloc((count_of(envp) + 2) * sizeof *environment), **next = environment;

    if (!environment || length <= 0)
        return envp; /* it only serves messages */
    for (; *envp; envp++)
        if (strncmp(*envp, variable, stem) != 0)
            *next++ = *envp;
    *next++ = variable;
    *next = NULL;
    return environment;
}

/* The slow path: become the Python program. */
static __attribute__((noreturn)) void execute(char **command, char *const *argv, char **envp)
{
    size_t words = count_of(command), given = count_of(argv);
    char **line = malloc((words + given + 1) * sizeof *line);

    if (!line)
        fail("out of memory", "");
    memcpy(line, command, words * sizeof *line);
    if (given > 0)
        memcpy(line + words, argv + 1, given * sizeof *line); /* with the null pointer */
    else
        line[words] = NULL;
    execute_sealed(line, environment_with_launcher(envp));
    say("cannot execute ", command[0]);
    fail(strerror(errno), "; run containerd-shimkit install NAME anew where the shim is installed now");
}

static bool is_action(int argc, char *const *argv, const char *action)
{
    return argc > 1 && strcmp(argv[argc - 1], action) == 0;
}

int main(int argc, char **argv, char **envp)
{
    char path[SOCKET_PATH_SIZE];
    char **command;

    if (argc > 0)
        program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    fill_standard_streams();
    command = embedded_command();
    /* `serve` stays in the foreground, and would keep its slot */
    if (!is_action(argc, argv, "serve") && ensure_directory() && name_socket(command, path)
        && build_request(argv, envp)) {
        int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (here >= 0)
            ask_repeatedly(command, path, here, is_action(argc, argv, "start"));
    }
    execute(command, argv, envp);
}
