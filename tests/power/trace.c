/* A shim for LD_PRELOAD: notes what a process does to the files below one directory, in order, and fails calls on demand.

   TRACE_ROOT   the directory, an absolute path without symbolic links. What is above it is not looked at.
   TRACE_FILE   where the notes go; outside of that directory. trace.py says what stands there.
   TRACE_SYNC_US  microseconds that an fsync takes. It is noted, not carried out: the notes decide what it is worth, and
                a test need not wait for a disk. Not given: fsync is carried out.
   TRACE_FAULTS faults, separated by spaces: call:name:nth:count:errno. From the nth call on (1 is the first) count calls
                of this kind fail (0: all that follow), on files whose path has this in it. call: write, sync, open, rename.
                errno -1: the process is killed there; and also at the calls written and synced, which are where a
                write or an fsync has been done.
   TRACE_FAULTS_WHEN  a file: faults count, and happen, only while it is there.

   What always holds: a call and its note are made under one lock, so the notes are in the order of what happened; only
   an fsync is noted twice, as it begins and as it has ended, and others write meanwhile. A reader who sees that the
   notes have grown to some length knows that everything up to there has happened.

   Not noted: reads, modes and times, and writes that do not come through these functions: a replay of all notes is
   compared with the directory by whoever reads them. What is mapped for writing is noted as such, and nothing more. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 65536
#define FAULTS_MAX 16

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, SYNCED, RENAME, UNLINK, LINK, MKDIR, RMDIR, STRANGE };

struct note {
    uint32_t kind, length, length2, number;   /* number: which opened file or fsync */
    int64_t offset;
    uint64_t time;                            /* CLOCK_MONOTONIC, ns */
};

struct opened { uint32_t number; dev_t device; ino_t inode; char *path; };

struct fault { char call[16], name[64]; long nth, count, seen; int error; };

static struct opened files[FILES_MAX];
static struct fault faults[FAULTS_MAX];
static int fault_count;
static const char *root, *faults_when;
static size_t root_length;
static long sync_us = -1;
static int trace = -1;
static uint32_t opened_count, sync_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

static void begin(void) {
    static int begun;
    if (begun) return;
    begun = 1;
    const char *file = getenv("TRACE_FILE"), *text;
    root = getenv("TRACE_ROOT");
    if (!file || !root) { root = NULL; return; }
    root_length = strlen(root);
    trace = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0) { perror("trace: cannot open TRACE_FILE"); _exit(125); }
    if ((text = getenv("TRACE_SYNC_US"))) sync_us = atol(text);
    faults_when = getenv("TRACE_FAULTS_WHEN");
    char *rest, *copy = strdup((text = getenv("TRACE_FAULTS")) ? text : "");
    for (char *word = strtok_r(copy, " ", &rest); word && fault_count < FAULTS_MAX; word = strtok_r(NULL, " ", &rest)) {
        struct fault *f = &faults[fault_count++];
        if (sscanf(word, "%15[^:]:%63[^:]:%ld:%ld:%d", f->call, f->name, &f->nth, &f->count, &f->error) != 5) {
            fprintf(stderr, "trace: no fault: %s\n", word);
            _exit(125);
        }
    }
}

static void locked(void) { pthread_mutex_lock(&lock); begin(); }
static void unlocked(void) { int error = errno; pthread_mutex_unlock(&lock); errno = error; }

/* Whether a descriptor may be one of ours: without the lock, since Python writes to a pipe from signal handlers. */
static int maybe(int fd) { return fd >= 0 && fd < FILES_MAX && files[fd].number; }

static int ours(const char *path) {
    return root && path && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The file behind a descriptor, if it is one of ours and still the one that was opened there. */
static struct opened *known(int fd) {
    struct stat is;
    if (!maybe(fd)) return NULL;
    if (fstat(fd, &is) || is.st_dev != files[fd].device || is.st_ino != files[fd].inode) {
        files[fd].number = 0;
        return NULL;
    }
    return &files[fd];
}

static void note(int kind, uint32_t number, int64_t offset, const void *data, size_t length, const void *data2, size_t length2) {
    struct timespec now;
    int error = errno;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct note n = {kind, length, length2, number, offset, now.tv_sec * 1000000000ull + now.tv_nsec};
    struct iovec parts[] = {{&n, sizeof n}, {(void *)data, length}, {(void *)data2, length2}};
    if (REAL(writev)(trace, parts, 3) != (ssize_t)(sizeof n + length + length2)) {
        perror("trace: cannot write TRACE_FILE");
        _exit(125);
    }
    errno = error;
}

static void note_path(int kind, uint32_t number, int64_t offset, const char *path) {
    note(kind, number, offset, path, strlen(path), NULL, 0);
}

/* Whether this call is to fail; errno says how then. */
static int fails(const char *call, const char *path) {
    if (!fault_count || !path || (faults_when && access(faults_when, F_OK))) return 0;
    for (struct fault *f = faults; f < faults + fault_count; f++)
        if (!strcmp(f->call, call) && strstr(path, f->name) && ++f->seen >= f->nth && (!f->count || f->seen < f->nth + f->count)) {
            if (f->error == -1) kill(getpid(), SIGKILL);
            errno = f->error;
            return 1;
        }
    return 0;
}

typedef int (*opener)(const char *, int, ...);

static int open_noted(opener real, const char *path, int flags, mode_t mode) {
    struct stat is;
    locked();
    if (!ours(path)) { unlocked(); return real(path, flags, mode); }
    int there = !stat(path, &is), fd = -1;
    if (!((flags & O_CREAT) && !there && fails("open", path))) fd = real(path, flags, mode);
    if (fd >= 0 && fd < FILES_MAX && !fstat(fd, &is)) {
        free(files[fd].path);
        files[fd] = (struct opened){++opened_count, is.st_dev, is.st_ino, strdup(path)};
        note_path(OPEN, opened_count, S_ISDIR(is.st_mode), path);
        if (there && (flags & O_TRUNC)) note(TRUNCATE, opened_count, 0, NULL, 0, NULL, 0);
    }
    unlocked();
    return fd;
}

#define MODE_OF(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_noted((opener)REAL(open), path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_noted((opener)REAL(open64), path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_noted((opener)REAL(open), path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

static int openat_noted(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t mode) {
    if (path && path[0] == '/') return open_noted((opener)REAL(open), path, flags, mode);
    locked();
    int fd = real(at, path, flags, mode);
    if (fd >= 0 && fd < FILES_MAX) files[fd].number = 0;
    if (fd >= 0 && known(at)) note_path(STRANGE, 0, 0, "openat");
    unlocked();
    return fd;
}

int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) return openat_noted(REAL(openat), at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) return openat_noted(REAL(openat64), at, path, flags, mode); }

static void forget(int fd) { if (fd >= 0 && fd < FILES_MAX) files[fd].number = 0; }

int close(int fd) {
    locked();
    forget(fd);
    int result = REAL(close)(fd);
    unlocked();
    return result;
}

int fclose(FILE *file) {
    locked();
    forget(fileno(file));
    int result = REAL(fclose)(file);
    unlocked();
    return result;
}

static FILE *fopen_noted(FILE *(*real)(const char *, const char *), const char *path, const char *mode) {
    locked();
    if (ours(path) && strpbrk(mode, "wa+")) note_path(STRANGE, 0, 0, "fopen");
    unlocked();
    return real(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopen_noted(REAL(fopen), path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopen_noted(REAL(fopen64), path, mode); }

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    locked();
    if ((flags & MAP_SHARED) && (protection & PROT_WRITE) && known(fd)) note_path(STRANGE, 0, 0, "mmap");
    unlocked();
    return REAL(mmap)(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    return mmap(at, length, protection, flags, fd, offset);
}

/* Writes: `done` bytes have been written and end at the descriptor's place, or begin at `offset`. */
static void note_write(int fd, const void *data, ssize_t done, off_t offset) {
    if (done > 0) note(WRITE, files[fd].number, offset < 0 ? lseek(fd, 0, SEEK_CUR) - done : offset, data, done, NULL, 0);
}

ssize_t write(int fd, const void *data, size_t length) {
    if (!maybe(fd)) return REAL(write)(fd, data, length);
    locked();
    ssize_t done = -1;
    int is_ours = known(fd) != NULL;
    if (!is_ours) { unlocked(); return REAL(write)(fd, data, length); }
    if (!fails("write", files[fd].path)) {
        done = REAL(write)(fd, data, length);
        note_write(fd, data, done, -1);
        fails("written", files[fd].path);
    }
    else if (errno == ENOSPC && length >= 16) {     /* as a full disk does it: what still fits, and an error next time */
        ssize_t half = REAL(write)(fd, data, length / 2);
        note_write(fd, data, half, -1);
        done = half;
    }
    unlocked();
    return done;
}

static ssize_t pwrite_noted(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *data, size_t length, off_t offset) {
    locked();
    ssize_t done = -1;
    int is_ours = known(fd) != NULL;
    if (!is_ours || !fails("write", files[fd].path)) done = real(fd, data, length, offset);
    if (is_ours) note_write(fd, data, done, offset);
    unlocked();
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite_noted(REAL(pwrite), fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite_noted(REAL(pwrite), fd, data, length, offset); }

static ssize_t writev_noted(int fd, const struct iovec *parts, int count, off_t offset) {
    size_t length = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    char *data = malloc(length + 1), *end = data;
    for (int i = 0; i < count; i++) { memcpy(end, parts[i].iov_base, parts[i].iov_len); end += parts[i].iov_len; }
    ssize_t done = offset < 0 ? write(fd, data, length) : pwrite(fd, data, length, offset);
    free(data);
    return done;
}
static int is_known(int fd) { if (!maybe(fd)) return 0; locked(); int yes = known(fd) != NULL; unlocked(); return yes; }
ssize_t writev(int fd, const struct iovec *parts, int count) { return is_known(fd) ? writev_noted(fd, parts, count, -1) : REAL(writev)(fd, parts, count); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return is_known(fd) ? writev_noted(fd, parts, count, at) : REAL(pwritev)(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return pwritev(fd, parts, count, at); }

int ftruncate(int fd, off_t length) {
    locked();
    int result = REAL(ftruncate)(fd, length);
    if (!result && known(fd)) note(TRUNCATE, files[fd].number, length, NULL, 0, NULL, 0);
    unlocked();
    return result;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int truncate(const char *path, off_t length) {    /* by way of a descriptor, which has a number in the notes */
    if (!ours(path)) return REAL(truncate)(path, length);
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    int result = ftruncate(fd, length);
    close(fd);
    return result;
}
int truncate64(const char *path, off64_t length) { return truncate(path, length); }

/* Of room made in advance only the size matters. */
static void note_room(int fd) {
    struct stat is;
    if (known(fd) && !fstat(fd, &is)) note(TRUNCATE, files[fd].number, is.st_size, NULL, 0, NULL, 0);
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
    locked();
    int result = REAL(fallocate)(fd, mode, offset, length);
    if (!result) note_room(fd);
    unlocked();
    return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    locked();
    int result = REAL(posix_fallocate)(fd, offset, length);
    if (!result) note_room(fd);
    unlocked();
    return result;
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

static int sync_noted(int (*real)(int), int fd) {
    if (!maybe(fd)) return real(fd);
    locked();
    if (!known(fd)) { unlocked(); return real(fd); }
    if (fails("sync", files[fd].path)) { unlocked(); return -1; }
    uint32_t number = ++sync_count;
    note(SYNC, files[fd].number, number, NULL, 0, NULL, 0);
    unlocked();
    int result = 0;
    if (sync_us < 0) result = real(fd); else if (sync_us) usleep(sync_us);
    locked();
    if (!result) {
        note(SYNCED, number, 0, NULL, 0, NULL, 0);
        if (maybe(fd)) fails("synced", files[fd].path);
    }
    unlocked();
    return result;
}
int fsync(int fd) { return sync_noted(REAL(fsync), fd); }
int fdatasync(int fd) { return sync_noted(REAL(fdatasync), fd); }

/* Starts writing and promises nothing, so it is nothing here. */
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
    return is_known(fd) ? 0 : REAL(sync_file_range)(fd, offset, length, flags);
}

int rename(const char *from, const char *to) {
    locked();
    int result = -1, is_ours = ours(from) || ours(to);
    if (!is_ours || !fails("rename", to)) result = REAL(rename)(from, to);
    if (!result && is_ours) note(RENAME, 0, 0, from, strlen(from), to, strlen(to));
    unlocked();
    return result;
}
int renameat(int at, const char *from, int to_at, const char *to) {
    if (from[0] == '/' && to[0] == '/') return rename(from, to);
    locked();
    if (known(at) || known(to_at)) note_path(STRANGE, 0, 0, "renameat");
    unlocked();
    return REAL(renameat)(at, from, to_at, to);
}
int link(const char *from, const char *to) {
    locked();
    int result = REAL(link)(from, to);
    if (!result && (ours(from) || ours(to))) note(LINK, 0, 0, from, strlen(from), to, strlen(to));
    unlocked();
    return result;
}

#define NOTED_BY_PATH(kind, call) \
    locked(); \
    int result = call; \
    if (!result && ours(path)) note_path(kind, 0, 0, path); \
    unlocked(); \
    return result;

int unlink(const char *path) { NOTED_BY_PATH(UNLINK, REAL(unlink)(path)) }
int rmdir(const char *path) { NOTED_BY_PATH(RMDIR, REAL(rmdir)(path)) }
int mkdir(const char *path, mode_t mode) { NOTED_BY_PATH(MKDIR, REAL(mkdir)(path, mode)) }
int unlinkat(int at, const char *path, int flags) {
    if (path[0] == '/') return flags & AT_REMOVEDIR ? rmdir(path) : unlink(path);
    locked();
    if (known(at)) note_path(STRANGE, 0, 0, "unlinkat");
    unlocked();
    return REAL(unlinkat)(at, path, flags);
}
