/* Preloaded into a process: records what it writes to the files of a store, and fails on demand.

   DRIPGATE_LOG names the record. Only files with "kept.db" in their path matter. Each entry is
   a line "op offset length path" followed by the bytes written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int log_fd = -1, fail_at = 0, fail_with = 0, sticky = 0, torn = 0;
static long calls = 0;

#define REAL(name, type) static type real; if (!real) real = (type)dlsym(RTLD_NEXT, name)

/* Fail the n-th call from now on, counted from 1; 0 never. Returns the calls counted so far. */
long dripgate_fail(int at, int with, int stay, int tear) {
    long before = calls;
    calls = 0, fail_at = at, fail_with = with, sticky = stay, torn = tear;
    return before;
}

static int ours(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, "kept.db") != NULL || strstr(path, "dripgate-") != NULL;
}

static int fails(void) {
    calls++;
    if (fail_at && (calls == fail_at || (sticky && calls > fail_at))) { errno = fail_with; return 1; }
    return 0;
}

typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off64_t);
typedef int (*truncate_t)(int, off64_t);
typedef int (*sync_t)(int);
typedef int (*unlink_t)(const char *);
typedef int (*open_t)(const char *, int, ...);

static void record(const char *op, const char *path, long long offset, const void *data, size_t n) {
    REAL("write", write_t);
    const char *name = getenv("DRIPGATE_LOG");
    if (!name) return;
    if (log_fd < 0) {
        open_t real_open = (open_t)dlsym(RTLD_NEXT, "open");
        log_fd = real_open(name, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600);
    }
    char head[4300];
    int length = snprintf(head, sizeof head, "%s %lld %zu %s\n", op, offset, n, path);
    if (real(log_fd, head, length) < 0 || (data && real(log_fd, data, n) < 0)) abort();
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    REAL("pwrite64", pwrite_t);
    char path[4096];
    if (!ours(fd, path)) return real(fd, data, n, offset);
    if (fails()) {
        if (torn && n > 1) { real(fd, data, n / 2, offset); errno = fail_with; }
        return -1;
    }
    record("write", path, offset, data, n);
    return real(fd, data, n, offset);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) { return pwrite64(fd, data, n, offset); }

ssize_t write(int fd, const void *data, size_t n) {  /* how the child tells what is acknowledged */
    REAL("write", write_t);
    char path[4096];
    if (ours(fd, path) && strstr(path, "acknowledged")) record("ack", path, 0, data, n);
    return real(fd, data, n);
}

int ftruncate64(int fd, off64_t length) {
    REAL("ftruncate64", truncate_t);
    char path[4096];
    if (!ours(fd, path)) return real(fd, length);
    if (fails()) return -1;
    record("cut", path, length, NULL, 0);
    return real(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_of(sync_t real, int fd) {
    char path[4096];
    if (!ours(fd, path)) return real(fd);
    if (fails()) return -1;
    record("sync", path, 0, NULL, 0);
    return real(fd);
}
int fsync(int fd) { REAL("fsync", sync_t); return sync_of(real, fd); }
int fdatasync(int fd) { REAL("fdatasync", sync_t); return sync_of(real, fd); }

int unlink(const char *path) {
    REAL("unlink", unlink_t);
    if (!strstr(path, "kept.db")) return real(path);
    if (fails()) return -1;
    record("unlink", path, 0, NULL, 0);
    return real(path);
}

static int opened(open_t real, const char *path, int flags, int mode) {
    if (!strstr(path, "kept.db") || !(flags & O_CREAT)) return real(path, flags, mode);
    int there = access(path, F_OK) == 0;
    if (!there && fails()) return -1;
    int fd = real(path, flags, mode);
    if (fd >= 0 && !there) record("create", path, 0, NULL, 0);
    return fd;
}
#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        REAL(#name, open_t);                                              \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        int mode = va_arg(more, int);                                     \
        va_end(more);                                                     \
        return opened(real, path, flags, mode);                           \
    }
OPEN(open)
OPEN(open64)
