/* Executing a program whose file nobody can write to by way of the process that runs it. */
#ifndef LAUNCHER_SEAL_H
#define LAUNCHER_SEAL_H

/* As execve(2) of `words[0]`, an absolute path, but so that /proc/PID/exe leads to a mount that is read-only for ever,
 * or to a sealed copy; where neither can be had, to the file itself. Returns only on failure, with errno. */
void execute_sealed(char *const *words, char *const *environment);

#endif
