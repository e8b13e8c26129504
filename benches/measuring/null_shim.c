// A shim that does nothing: it answers every call of the Task API at once. What containerd and a benchmark's client
// cost by themselves, on the very path that a real shim is called by, is what is left: the ceiling.
//
//   containerd-shim-null-v1 serve          answer at SOCKET_PATH, for every container there is, until killed
//   containerd-shim-null-v1 ... start      print that address
//   containerd-shim-null-v1 ... delete     nothing to remove; -info and -v have nothing to say
//
// SOCKET_PATH and EXIT_STATUS come from the compiler's command line.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 10, LARGEST = 4 << 20, REQUEST = 1, RESPONSE = 2, STOPPED = 3 };

static size_t put_varint(uint8_t *to, uint64_t value) {
    size_t size = 0;
    for (; value > 0x7f; value >>= 7) to[size++] = (uint8_t)(value | 0x80);
    to[size++] = (uint8_t)value;
    return size;
}

static size_t put_number(uint8_t *to, int field, uint64_t value) {
    size_t size = put_varint(to, (uint64_t)field << 3);
    return size + put_varint(to + size, value);
}

static size_t put_bytes(uint8_t *to, int field, const uint8_t *bytes, size_t length) {
    size_t size = put_varint(to, (uint64_t)field << 3 | 2);
    size += put_varint(to + size, length);
    memcpy(to + size, bytes, length);
    return size + length;
}

static size_t put_time(uint8_t *to, int field) {
    uint8_t seconds[16];
    return put_bytes(to, field, seconds, put_number(seconds, 1, (uint64_t)time(NULL)));
}

// The answer to a method of containerd.task.v2.Task: field numbers are those of its protobuf messages.
static size_t put_answer(uint8_t *to, const char *method) {
    uint64_t pid = (uint64_t)getpid();
    size_t size = 0;
    if (!strcmp(method, "Create") || !strcmp(method, "Start")) return put_number(to, 1, pid);
    if (!strcmp(method, "Connect")) {
        size = put_number(to, 1, pid);
        return size + put_number(to + size, 2, pid);
    }
    if (!strcmp(method, "State")) {
        size = put_number(to, 3, pid);
        return size + put_number(to + size, 4, STOPPED);
    }
    if (!strcmp(method, "Wait")) {
        size = put_number(to, 1, EXIT_STATUS);
        return size + put_time(to + size, 2);
    }
    if (!strcmp(method, "Delete")) {
        size = put_number(to, 1, pid);
        size += put_number(to + size, 2, EXIT_STATUS);
        return size + put_time(to + size, 3);
    }
    return 0;
}

static int read_all(int from, uint8_t *to, size_t size) {
    while (size) {
        ssize_t got = read(from, to, size);
        if (got <= 0) return -1;
        to += got;
        size -= (size_t)got;
    }
    return 0;
}

static const uint8_t *take_varint(const uint8_t *from, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; from < end && shift < 64; shift += 7) {
        *value |= (uint64_t)(*from & 0x7f) << shift;
        if (!(*from++ & 0x80)) return from;
    }
    return NULL;
}

// Field 2 of a ttrpc request, the method's name; empty when there is none.
static void find_method(const uint8_t *at, size_t size, char *method, size_t room) {
    const uint8_t *end = at + size;
    *method = 0;
    while (at && at < end) {
        uint64_t key, length;
        if (!(at = take_varint(at, end, &key)) || !(at = take_varint(at, end, &length))) return;
        if ((key & 7) != 2) continue;  // a number: taken already
        if (length > (uint64_t)(end - at)) return;
        if (key >> 3 == 2 && length < room) {
            memcpy(method, at, length);
            method[length] = 0;
            return;
        }
        at += length;
    }
}

static int answer(int connection, const uint8_t *header, const char *method) {
    uint8_t payload[128], frame[256];
    size_t length = put_bytes(frame + HEADER, 2, payload, put_answer(payload, method));
    for (int i = 0; i < 4; i++) frame[i] = (uint8_t)(length >> (24 - 8 * i));
    memcpy(frame + 4, header + 4, 4);  // the stream
    frame[8] = RESPONSE;
    frame[9] = 0;
    return write(connection, frame, HEADER + length) < 0 ? -1 : 0;
}

static void *serve_connection(void *argument) {
    int connection = (int)(intptr_t)argument;
    uint8_t header[HEADER];
    char method[64];
    while (!read_all(connection, header, HEADER)) {
        size_t size = (size_t)header[0] << 24 | (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
        uint8_t *data = size > LARGEST ? NULL : malloc(size + 1);
        if (!data || read_all(connection, data, size)) {
            free(data);
            break;
        }
        find_method(data, size, method, sizeof method);
        free(data);
        if (header[8] == REQUEST && answer(connection, header, method)) break;
    }
    close(connection);
    return NULL;
}

static int serve(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror(SOCKET_PATH);
        return 1;
    }
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        pthread_t thread;
        if (connection < 0) continue;
        if (pthread_create(&thread, NULL, serve_connection, (void *)(intptr_t)connection)) close(connection);
        else pthread_detach(thread);
    }
}

int main(int argc, char **argv) {
    const char *action = argc > 1 ? argv[argc - 1] : "";
    if (!strcmp(action, "serve")) return serve();
    if (!strcmp(action, "start")) fputs("unix://" SOCKET_PATH, stdout);
    return 0;
}
