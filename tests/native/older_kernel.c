/* Preloaded in front of libc: makes raw system calls answer as another kernel, or a failing disk, would.
 *
 *     KNOWN_SETUP_FLAGS   io_uring_setup refuses every other flag with EINVAL, as kernels before the flag do
 *     HIDDEN_FEATURES     bits that io_uring_setup does not report
 *     EVENT_RESULT        what io_getevents reports for each operation: bytes, or -errno
 *     STALL_MS            how long pread of a block sleeps before it reads
 *     THREADS             how many more threads may be made: then pthread_create says EAGAIN
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { IO_URING_SETUP = 425, FLAGS = 2, FEATURES = 5 }; /* the latter as u32 index into io_uring_params */

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    const char *known = getenv("KNOWN_SETUP_FLAGS"), *hidden = getenv("HIDDEN_FEATURES"), *result = getenv("EVENT_RESULT");
    if (number == IO_URING_SETUP && known && ((uint32_t *)a[1])[FLAGS] & ~strtoul(known, NULL, 0)) {
        errno = EINVAL;
        return -1;
    }
    long done = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (number == IO_URING_SETUP && done >= 0 && hidden)
        ((uint32_t *)a[1])[FEATURES] &= ~(uint32_t)strtoul(hidden, NULL, 0);
    if (number == SYS_io_getevents && result)
        for (long i = 0; i < done; i++)
            ((struct io_event *)a[3])[i].res = strtol(result, NULL, 0);
    return done;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static long made;
    if (!next)
        next = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    const char *threads = getenv("THREADS");
    if (threads && made++ >= strtol(threads, NULL, 0))
        return EAGAIN;
    return next(thread, attributes, start, argument);
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset)
{
    static ssize_t (*next)(int, void *, size_t, off64_t);
    if (!next)
        next = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    const char *stall_ms = getenv("STALL_MS");
    if (stall_ms && bytes >= 4096) /* what is smaller is the agent reading counters */
        usleep((useconds_t)strtoul(stall_ms, NULL, 0) * 1000);
    return next(fd, buffer, bytes, offset);
}
