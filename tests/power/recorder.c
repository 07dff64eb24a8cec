/* What does a process tell the disk, and in which order? LD_PRELOAD: all that changes files below $POWER_ROOT, and all
   that flushes them, goes into $POWER_LOG, one record each, in the order in which it was done (one at a time).

   Writes to $POWER_NOTES are records of their own, so that what was acknowledged stands among what was written;
   so are HTTP answers with the status 200, with the port of whoever got them. What no record can tell (a shared
   mapping, a copy within the kernel) is a record that says so. SQLite's -shm is left out: it is never flushed, and
   made anew after a crash.

   A record: op, 3 bytes, handle, number, length of the first and of the second text (u8 u32 u64 u32 u32), the texts.
   A handle is an open file: what later records of it mean is settled by the path it was opened by. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 65536
#define NOTES UINT32_MAX
#define REAL(name) ((__typeof__(&name)) real(#name))

static uint32_t handles[FDS], last_handle;
static char root[PATH_MAX], notes[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pid_t owner;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("POWER_ROOT"), *log = getenv("POWER_LOG"), *told = getenv("POWER_NOTES");
  if (!folder || !log || !realpath(folder, root)) return;
  root_length = strlen(root);
  if (told) snprintf(notes, sizeof notes, "%s", told);
  owner = getpid();
  log_fd = (int) syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd >= 0 && log_fd < 500) { /* out of the way of whoever closes low descriptors */
    int high = (int) syscall(SYS_fcntl, log_fd, F_DUPFD_CLOEXEC, 500);
    if (high >= 0) { syscall(SYS_close, log_fd); log_fd = high; }
  }
  unsetenv("LD_PRELOAD"); /* children are nobody's business here */
}

/* After a vfork our memory is the parent's still. */
static int ours(void) { return log_fd >= 0 && getpid() == owner; }

static void record(char op, uint32_t handle, uint64_t number, const void *one, size_t n, const void *two, size_t m) {
  struct __attribute__((packed)) { char op; char pad[3]; uint32_t handle; uint64_t number; uint32_t n, m; } head;
  memset(&head, 0, sizeof head);
  head.op = op; head.handle = handle; head.number = number; head.n = (uint32_t) n; head.m = (uint32_t) m;
  struct iovec parts[3] = {{&head, sizeof head}, {(void *) one, n}, {(void *) two, m}};
  if (syscall(SYS_writev, log_fd, parts, 3) != (long) (sizeof head + n + m)) abort();
}

static void tell(const char *what) { record('!', 0, 0, what, strlen(what), NULL, 0); }

/* The absolute path below the root, or NULL where it is none of ours. */
static const char *ours_at(int folder, const char *path, char *into) {
  char whole[PATH_MAX], parent[PATH_MAX];
  if (!path || !ours()) return NULL;
  if (path[0] == '/') snprintf(whole, sizeof whole, "%s", path);
  else {
    char link[64];
    if (folder == AT_FDCWD) { if (!getcwd(parent, sizeof parent)) return NULL; }
    else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t n = readlink(link, parent, sizeof parent - 1);
      if (n < 0) return NULL;
      parent[n] = 0;
    }
    if ((size_t) snprintf(whole, sizeof whole, "%s/%s", parent, path) >= sizeof whole) return NULL;
  }
  if (strncmp(whole, root, root_length) == 0 && whole[root_length] == 0) return strcpy(into, whole);
  char *slash = strrchr(whole, '/');
  if (!slash || slash == whole) return NULL;
  *slash = 0;
  if (!realpath(whole, parent)) return NULL;
  if (strncmp(parent, root, root_length) != 0 || (parent[root_length] && parent[root_length] != '/')) return NULL;
  if ((size_t) snprintf(into, PATH_MAX, "%s/%s", parent, slash + 1) >= PATH_MAX) return NULL;
  size_t length = strlen(into);
  if (length > 4 && strcmp(into + length - 4, "-shm") == 0) return NULL;
  return into;
}

static uint32_t handle_of(int fd) { return fd >= 0 && fd < FDS && handles[fd] && ours() ? handles[fd] : 0; }

/* ------------------------------------------------------------------------------------------- descriptors and names */

static int opened(int fd, int folder, const char *path, int flags) {
  char at[PATH_MAX];
  if (fd < 0 || fd >= FDS || !ours()) return fd;
  int error = errno;
  if (notes[0] && strcmp(path, notes) == 0) handles[fd] = NOTES;
  else if (ours_at(folder, path, at)) {
    handles[fd] = ++last_handle;
    record('o', handles[fd], (uint64_t) (unsigned) flags, at, strlen(at), NULL, 0);
  } else handles[fd] = 0;
  errno = error;
  return fd;
}

#define OPEN(name, call)                                                                                              \
  mode_t mode = 0;                                                                                                    \
  if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
  pthread_mutex_lock(&turn);                                                                                          \
  int fd = opened(call, folder, path, flags);                                                                         \
  pthread_mutex_unlock(&turn);                                                                                        \
  return fd;

int open(const char *path, int flags, ...) { int folder = AT_FDCWD; OPEN(open, (REAL(open)(path, flags, mode))) }
int open64(const char *path, int flags, ...) { int folder = AT_FDCWD; OPEN(open64, (REAL(open64)(path, flags, mode))) }
int openat(int folder, const char *path, int flags, ...) { OPEN(openat, (REAL(openat)(folder, path, flags, mode))) }
int openat64(int folder, const char *path, int flags, ...) { OPEN(openat64, (REAL(openat64)(folder, path, flags, mode))) }
int creat(const char *path, mode_t mode) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

int close(int fd) {
  if (!handle_of(fd)) return REAL(close)(fd);
  pthread_mutex_lock(&turn);
  handles[fd] = 0;
  int done = REAL(close)(fd);
  pthread_mutex_unlock(&turn);
  return done;
}

static int duplicated(int fd, int old) {
  if (fd >= 0 && fd < FDS && ours()) handles[fd] = handle_of(old);
  return fd;
}
int dup(int old) { return duplicated(REAL(dup)(old), old); }
int dup2(int old, int fd) { return duplicated(REAL(dup2)(old, fd), old); }
int dup3(int old, int fd, int flags) { return duplicated(REAL(dup3)(old, fd, flags), old); }

static int named(char op, int done, int folder, const char *path, int folder2, const char *path2) {
  char one[PATH_MAX], two[PATH_MAX];
  int error = errno;
  if (done == 0) {
    const char *first = ours_at(folder, path, one), *second = path2 ? ours_at(folder2, path2, two) : NULL;
    if (path2 && !first != !second) tell("a name from outside, or to there");
    else if (first) record(op, 0, 0, first, strlen(first), second, second ? strlen(second) : 0);
  }
  errno = error;
  return done;
}
#define NAMED(op, call, a, b, c, d)                                                                                   \
  pthread_mutex_lock(&turn);                                                                                          \
  int done = named(op, call, a, b, c, d);                                                                             \
  pthread_mutex_unlock(&turn);                                                                                        \
  return done;

int rename(const char *a, const char *b) { NAMED('r', REAL(rename)(a, b), AT_FDCWD, a, AT_FDCWD, b) }
int renameat(int f, const char *a, int g, const char *b) { NAMED('r', REAL(renameat)(f, a, g, b), f, a, g, b) }
int renameat2(int f, const char *a, int g, const char *b, unsigned flags) {
  NAMED(flags & ~1U ? '!' : 'r', REAL(renameat2)(f, a, g, b, flags), f, a, g, b)
}
int link(const char *a, const char *b) { NAMED('l', REAL(link)(a, b), AT_FDCWD, a, AT_FDCWD, b) }
int linkat(int f, const char *a, int g, const char *b, int flags) { NAMED('l', REAL(linkat)(f, a, g, b, flags), f, a, g, b) }
int symlink(const char *a, const char *b) { NAMED('!', REAL(symlink)(a, b), AT_FDCWD, b, 0, NULL) }
int symlinkat(const char *a, int g, const char *b) { NAMED('!', REAL(symlinkat)(a, g, b), g, b, 0, NULL) }
int unlink(const char *a) { NAMED('u', REAL(unlink)(a), AT_FDCWD, a, 0, NULL) }
int rmdir(const char *a) { NAMED('u', REAL(rmdir)(a), AT_FDCWD, a, 0, NULL) }
int unlinkat(int f, const char *a, int flags) { NAMED('u', REAL(unlinkat)(f, a, flags), f, a, 0, NULL) }
int mkdir(const char *a, mode_t mode) { NAMED('m', REAL(mkdir)(a, mode), AT_FDCWD, a, 0, NULL) }
int mkdirat(int f, const char *a, mode_t mode) { NAMED('m', REAL(mkdirat)(f, a, mode), f, a, 0, NULL) }

/* --------------------------------------------------------------------------------------------------------- contents */

static ssize_t written(uint32_t handle, off_t at, const struct iovec *parts, int count, ssize_t done) {
  int error = errno;
  ssize_t left = done;
  for (int i = 0; i < count && left > 0; i++) {
    size_t n = (size_t) left < parts[i].iov_len ? (size_t) left : parts[i].iov_len;
    record(handle == NOTES ? 'n' : 'w', handle, (uint64_t) at, parts[i].iov_base, n, NULL, 0);
    at += (off_t) n;
    left -= (ssize_t) n;
  }
  errno = error;
  return done;
}
#define WRITE(call, at, parts, count)                                                                                 \
  uint32_t handle = handle_of(fd);                                                                                    \
  if (!handle) return call;                                                                                           \
  pthread_mutex_lock(&turn);                                                                                          \
  ssize_t done = call;                                                                                                \
  if (done > 0) written(handle, at, parts, count, done);                                                              \
  pthread_mutex_unlock(&turn);                                                                                        \
  return done;
#define BEHIND (lseek(fd, 0, SEEK_CUR) - done)

ssize_t write(int fd, const void *data, size_t size) {
  struct iovec part = {(void *) data, size};
  WRITE(REAL(write)(fd, data, size), BEHIND, &part, 1)
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  struct iovec part = {(void *) data, size};
  WRITE(REAL(pwrite)(fd, data, size, at), at, &part, 1)
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  struct iovec part = {(void *) data, size};
  WRITE(REAL(pwrite64)(fd, data, size, at), at, &part, 1)
}
ssize_t writev(int fd, const struct iovec *parts, int count) { WRITE(REAL(writev)(fd, parts, count), BEHIND, parts, count) }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { WRITE(REAL(pwritev)(fd, parts, count, at), at, parts, count) }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { WRITE(REAL(pwritev64)(fd, parts, count, at), at, parts, count) }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
  WRITE(REAL(pwritev2)(fd, parts, count, at, flags), at < 0 ? BEHIND : at, parts, count)
}

#define CHANGE(op, number, call)                                                                                      \
  uint32_t handle = handle_of(fd);                                                                                    \
  if (!handle) return call;                                                                                           \
  pthread_mutex_lock(&turn);                                                                                          \
  int done = call, error = errno;                                                                                     \
  if (done == 0) record(op, handle, (uint64_t) (number), NULL, 0, NULL, 0);                                           \
  errno = error;                                                                                                      \
  pthread_mutex_unlock(&turn);                                                                                        \
  return done;

int ftruncate(int fd, off_t size) { CHANGE('t', size, REAL(ftruncate)(fd, size)) }
int ftruncate64(int fd, off64_t size) { CHANGE('t', size, REAL(ftruncate64)(fd, size)) }
int truncate(const char *path, off_t size) { NAMED('!', REAL(truncate)(path, size), AT_FDCWD, path, 0, NULL) }
int truncate64(const char *path, off64_t size) { NAMED('!', REAL(truncate64)(path, size), AT_FDCWD, path, 0, NULL) }
/* It makes the file longer, at the most; other modes are told. */
int fallocate(int fd, int mode, off_t at, off_t size) { CHANGE(mode ? '!' : 'a', at + size, REAL(fallocate)(fd, mode, at, size)) }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { CHANGE(mode ? '!' : 'a', at + size, REAL(fallocate64)(fd, mode, at, size)) }
int posix_fallocate(int fd, off_t at, off_t size) { CHANGE('a', at + size, REAL(posix_fallocate)(fd, at, size)) }
int posix_fallocate64(int fd, off64_t at, off64_t size) { CHANGE('a', at + size, REAL(posix_fallocate64)(fd, at, size)) }
int fsync(int fd) { CHANGE('s', 0, REAL(fsync)(fd)) }
int fdatasync(int fd) { CHANGE('s', 1, REAL(fdatasync)(fd)) }

#define UNTOLD(fd, call, what)                                                                                        \
  if (handle_of(fd)) { pthread_mutex_lock(&turn); tell(what); pthread_mutex_unlock(&turn); }                          \
  return call;

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t from) {
  if ((flags & MAP_SHARED) && (protection & PROT_WRITE) && handle_of(fd)) tell("a shared mapping");
  return REAL(mmap)(at, size, protection, flags, fd, from);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t from) {
  if ((flags & MAP_SHARED) && (protection & PROT_WRITE) && handle_of(fd)) tell("a shared mapping");
  return REAL(mmap64)(at, size, protection, flags, fd, from);
}
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
  UNTOLD(out, REAL(copy_file_range)(in, a, out, b, n, flags), "copy_file_range")
}
ssize_t splice(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
  UNTOLD(out, REAL(splice)(in, a, out, b, n, flags), "splice")
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) { UNTOLD(out, REAL(sendfile)(out, in, at, n), "sendfile") }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { UNTOLD(out, REAL(sendfile64)(out, in, at, n), "sendfile") }

/* ---------------------------------------------------------------------------------------------------------- answers */

static void answered(int fd, const void *data, size_t size) {
  static const char ok[] = "HTTP/1.1 200";
  struct sockaddr_in peer;
  socklen_t length = sizeof peer;
  if (!ours() || size < sizeof ok - 1 || memcmp(data, ok, sizeof ok - 1) != 0) return;
  if (getpeername(fd, (struct sockaddr *) &peer, &length) != 0 || peer.sin_family != AF_INET) return;
  pthread_mutex_lock(&turn);
  record('h', 0, ntohs(peer.sin_port), NULL, 0, NULL, 0);
  pthread_mutex_unlock(&turn);
}
/* Recorded before it goes out: whoever gets it may say so at once. */
ssize_t send(int fd, const void *data, size_t size, int flags) {
  answered(fd, data, size);
  return REAL(send)(fd, data, size, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (message->msg_iovlen) answered(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
  return REAL(sendmsg)(fd, message, flags);
}
