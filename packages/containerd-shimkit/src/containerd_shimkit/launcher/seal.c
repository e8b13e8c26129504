/* The same ways as linux/sealed_program.py, in the same order. Whoever runs as root in a container gets at
 * /proc/PID/exe of the process that its init was forked from, or executes it by `#!/proc/self/exe`. When that one has
 * ended, only what the file was opened through keeps it from being written to.
 * Source: open_tree(2), mount_setattr(2), execveat(2), memfd_create(2), ld.so(8). */
#define _GNU_SOURCE
#include "seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than some C libraries' headers, and of one number everywhere. */
#define CALL_OPEN_TREE 428
#define CALL_OPENAT2 437
#define CALL_MOUNT_SETATTR 442

#define CLONE_MOUNT 1        /* OPEN_TREE_CLONE of linux/mount.h */
#define READ_ONLY 1          /* MOUNT_ATTR_RDONLY */
#define PRIVATE (1u << 18)   /* MS_PRIVATE */
#define IN_ROOT 0x10         /* RESOLVE_IN_ROOT of linux/openat2.h */
#define EMPTY_PATH 0x1000    /* AT_EMPTY_PATH of linux/fcntl.h */
#define COPY_FLAGS 3u        /* MFD_CLOEXEC | MFD_ALLOW_SEALING of linux/memfd.h */
#define COPY_EXECUTABLE 0x10u /* MFD_EXEC: Linux 6.3 */
#define ADD_SEALS 1033       /* F_ADD_SEALS of linux/fcntl.h */
#define ALL_SEALS 0xf        /* F_SEAL_SEAL, _SHRINK, _GROW, _WRITE */
#define MOST_BYTES (1u << 28) /* of a program that is copied */

/* A read-only mount of what is at *path*, which stands nowhere, so that nobody can change it; -1 where there is none. */
static int clone_mount(const char *path)
{
    const struct {
        uint64_t set, clear, propagation, user_namespace;
    } attributes = {READ_ONLY, 0, PRIVATE, 0};
    int mount = (int)syscall(CALL_OPEN_TREE, AT_FDCWD, path, CLONE_MOUNT | O_CLOEXEC);

    if (mount >= 0 && syscall(CALL_MOUNT_SETATTR, mount, "", EMPTY_PATH, &attributes, sizeof attributes) < 0) {
        close(mount);
        mount = -1;
    }
    return mount;
}

/* The program in a clone of the root's mount, where it has its own path: the dynamic linker asks for that. -1 when it
 * is on another mount. */
static int open_below_root(const char *path, const struct stat *wanted)
{
    const struct {
        uint64_t flags, mode, resolve;
    } how = {O_PATH | O_CLOEXEC, 0, IN_ROOT};
    struct stat found;
    int root = clone_mount("/"), program;

    if (root < 0)
        return -1;
    program = (int)syscall(CALL_OPENAT2, root, path, &how, sizeof how);
    close(root); /* now the mount belongs to nobody, and is gone with the program's last process */
    if (program >= 0
        && (fstat(program, &found) < 0 || found.st_dev != wanted->st_dev || found.st_ino != wanted->st_ino)) {
        close(program);
        program = -1;
    }
    return program;
}

/* Whether the program may look for its libraries beside its own path, which by the other ways it does not know. */
static bool has_origin(int file, size_t length)
{
    void *text = mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, 0);
    bool found;

    if (text == MAP_FAILED)
        return true;
    found = memmem(text, length, "$ORIGIN", 7) || memmem(text, length, "${ORIGIN}", 9);
    munmap(text, length);
    return found;
}

/* Open a descriptor's file anew: one that somebody has open for writing cannot be executed. */
static int reopen_for_reading(int descriptor)
{
    char path[] = "/proc/self/fd/0000000000", *digit = path + sizeof path - 1;

    do
        *--digit = (char)('0' + descriptor % 10);
    while (descriptor /= 10);
    memmove(path + sizeof "/proc/self/fd", digit, strlen(digit) + 1);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int open_copy(int file, size_t length)
{
    int reading = -1, copy = (int)syscall(SYS_memfd_create, "shim", COPY_FLAGS | COPY_EXECUTABLE);
    size_t done = 0;

    if (copy < 0)
        copy = (int)syscall(SYS_memfd_create, "shim", COPY_FLAGS);
    if (copy < 0)
        return -1;
    while (done < length) {
        ssize_t step = sendfile(copy, file, NULL, length - done);

        if (step <= 0)
            break;
        done += (size_t)step;
    }
    if (done == length && fcntl(copy, ADD_SEALS, ALL_SEALS) == 0)
        reading = reopen_for_reading(copy);
    close(copy);
    return reading;
}

/* What to execute in the place of the file at *path*; -1 when nothing protects it. */
static int open_sealed(const char *path)
{
    struct stat found;
    int sealed = -1, file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return -1;
    if (fstat(file, &found) == 0 && S_ISREG(found.st_mode)) {
        sealed = open_below_root(path, &found);
        if (sealed < 0 && found.st_size > 0 && found.st_size <= MOST_BYTES
            && !has_origin(file, (size_t)found.st_size)) {
            sealed = clone_mount(path);
            if (sealed < 0)
                sealed = open_copy(file, (size_t)found.st_size);
        }
    }
    close(file);
    return sealed;
}

void execute_sealed(char *const *words, char *const *environment)
{
    int program = open_sealed(words[0]);

    if (program >= 0) {
        syscall(SYS_execveat, program, "", words, environment, EMPTY_PATH);
        close(program); /* a script, or a security module that wants a path */
    }
    execve(words[0], words, environment); /* which then says itself that it is not protected */
}
