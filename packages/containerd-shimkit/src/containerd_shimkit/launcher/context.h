/* Where the zygote listens that is right for a command in the context of this process. */
#ifndef LAUNCHER_CONTEXT_H
#define LAUNCHER_CONTEXT_H

#include <stdbool.h>

#ifndef LAUNCHER_DIRECTORY /* tests have their own */
#define LAUNCHER_DIRECTORY "/run/containerd-shimkit"
#endif

#define SOCKET_PATH_SIZE sizeof(LAUNCHER_DIRECTORY "/0123456789abcdef.sock")

/* Write the path of the socket; false when the context cannot be told. `words` ends with a null pointer. */
bool name_socket(char *const *words, char path[SOCKET_PATH_SIZE]);

#endif
