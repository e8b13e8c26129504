/* The same digest as zygote/naming.py, byte for byte: FNV-1a over the command and over all that a child inherits and
 * could not be given otherwise. Source: proc(5), namespaces(7). */
#define _GNU_SOURCE
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *const namespaces[] = {
    "ns/cgroup", "ns/ipc",  "ns/mnt",  "ns/net", "ns/pid", "ns/pid_for_children",
    "ns/time",   "ns/time_for_children", "ns/user", "ns/uts", NULL,
};
static const char *const status_lines[] = {
    "Uid:",    "Gid:",    "Groups:", "NoNewPrivs:", "Seccomp:",      "CapInh:",       "CapPrm:",
    "CapEff:", "CapBnd:", "CapAmb:", "Cpus_allowed:", "Mems_allowed:", NULL,
};
static const char *const files[] = {"limits", "cgroup", "oom_score_adj", "attr/current", NULL};

static unsigned char text[1 << 20]; /* a user may be in 65536 groups */

static void add(uint64_t *digest, const void *data, size_t length)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < length; i++)
        *digest = (*digest ^ bytes[i]) * 0x100000001b3u;
}

static void add_number(uint64_t *digest, uint64_t number, size_t length)
{
    unsigned char bytes[8];

    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)(number >> 8 * i);
    add(digest, bytes, length);
}

/* Read a whole file of /proc/self; an unreadable one counts as empty. Returns its length, -1 when it is too long. */
static ssize_t read_text(int proc, const char *name)
{
    size_t length = 0;
    int file = openat(proc, name, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return 0; /* a kernel without security modules has no label to read */
    for (;;) {
        ssize_t got = read(file, text + length, sizeof text - length);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            length = 0;
        if (got <= 0)
            break;
        length += (size_t)got;
        if (length == sizeof text) {
            close(file);
            return -1;
        }
    }
    close(file);
    return (ssize_t)length;
}

static bool is_wanted(const unsigned char *line, size_t length)
{
    for (const char *const *prefix = status_lines; *prefix; prefix++)
        if (strlen(*prefix) <= length && memcmp(line, *prefix, strlen(*prefix)) == 0)
            return true;
    return false;
}

static bool add_status(uint64_t *digest, int proc)
{
    ssize_t length = read_text(proc, "status");

    for (ssize_t start = 0, end; start < length; start = end) {
        const unsigned char *newline = memchr(text + start, '\n', (size_t)(length - start));

        end = newline ? newline - text + 1 : length;
        if (is_wanted(text + start, (size_t)(end - start)))
            add(digest, text + start, (size_t)(end - start));
    }
    return length >= 0;
}

static bool add_namespaces(uint64_t *digest, int proc)
{
    struct stat found;

    for (const char *const *name = namespaces; *name; name++) {
        if (fstatat(proc, *name, &found, 0) < 0) {
            if (errno != ENOENT)
                return false;
            found.st_ino = 0; /* a kernel without that kind */
        }
        add_number(digest, found.st_ino, 8);
    }
    if (stat("/", &found) < 0)
        return false;
    add_number(digest, found.st_dev, 8);
    add_number(digest, found.st_ino, 8);
    return true;
}

static bool add_context(uint64_t *digest, int proc)
{
    int priority;

    if (!add_namespaces(digest, proc) || !add_status(digest, proc))
        return false;
    for (const char *const *name = files; *name; name++) {
        ssize_t length = read_text(proc, *name);

        if (length < 0)
            return false;
        add(digest, text, (size_t)length);
    }
    errno = 0;
    priority = getpriority(PRIO_PROCESS, 0);
    if (priority == -1 && errno)
        return false;
    add_number(digest, (uint64_t)priority, 4);
    /* the call itself: musl's function of that name only fails */
    add_number(digest, (uint64_t)syscall(SYS_sched_getscheduler, 0), 4);
    return true;
}

bool name_socket(char *const *words, char path[SOCKET_PATH_SIZE])
{
    static const char digits[] = "0123456789abcdef", suffix[] = ".sock";
    const size_t stem = sizeof LAUNCHER_DIRECTORY; /* with a slash where its NUL is */
    uint64_t digest = 0xcbf29ce484222325u;
    bool known;
    int proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (proc < 0)
        return false;
    for (; *words; words++)
        add(&digest, *words, strlen(*words) + 1);
    known = add_context(&digest, proc);
    close(proc);
    memcpy(path, LAUNCHER_DIRECTORY "/", stem);
    for (size_t i = 0; i < 16; i++)
        path[stem + i] = digits[digest >> (60 - 4 * i) & 15];
    memcpy(path + stem + 16, suffix, sizeof suffix);
    return known;
}
