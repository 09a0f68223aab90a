"""What this kernel lets the present process use, tried out, and what it says of its clock."""

import errno

from libc.errno cimport ENOSYS
from libc.errno cimport errno as last_errno
from libc.string cimport memset
from posix.unistd cimport close


cdef extern from *:
    """
    #include <linux/aio_abi.h>
    #include <linux/io_uring.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <sys/timex.h>
    #include <unistd.h>
    #ifndef IORING_FEAT_EXT_ARG
    #define IORING_FEAT_EXT_ARG (1U << 8)
    #endif
    #define REGISTER_PROBE 8 /* IORING_REGISTER_PROBE: an enum, so #ifndef cannot see it */
    static inline int ring_setup(uint32_t *features)
    {
        struct io_uring_params parameters;
        memset(&parameters, 0, sizeof parameters);
        int fd = (int)syscall(__NR_io_uring_setup, 1, &parameters);
        *features = parameters.features;
        return fd;
    }
    static inline long ring_register(int fd)
    {
        uint64_t probe[2] = {0, 0};
        return syscall(__NR_io_uring_register, fd, REGISTER_PROBE, probe, 0);
    }
    static inline long ring_enter(int fd) { return syscall(__NR_io_uring_enter, fd, 0, 0, 0, NULL, 0); }
    static inline long aio_setup(unsigned long *context) { return syscall(__NR_io_setup, 1, context); }
    static inline long aio_destroy(unsigned long context) { return syscall(__NR_io_destroy, context); }
    """
    cdef enum:
        IORING_FEAT_EXT_ARG
        STA_UNSYNC
    struct timex:
        unsigned int modes
        long freq
        long maxerror
        long esterror
        int status
    int adjtimex(timex *) nogil
    int ring_setup(unsigned int *features) nogil
    long ring_register(int fd) nogil
    long ring_enter(int fd) nogil
    long aio_setup(unsigned long *context) nogil
    long aio_destroy(unsigned long context) nogil


def try_io_uring():
    """Return None where the engines can use io_uring, else (call, errno) of what was refused."""
    cdef unsigned int features = 0
    cdef int fd = ring_setup(&features)
    if fd < 0:
        return "io_uring_setup", last_errno
    try:
        if not features & IORING_FEAT_EXT_ARG:  # waits could not time out
            return "io_uring_setup", ENOSYS
        if ring_register(fd) < 0:
            return "io_uring_register", last_errno
        if ring_enter(fd) < 0:
            return "io_uring_enter", last_errno
    finally:
        close(fd)
    return None


def try_libaio():
    """Return None where the engines can use libaio, else (call, errno) of what was refused."""
    cdef unsigned long context = 0
    if aio_setup(&context) < 0:
        return "io_setup", last_errno
    aio_destroy(context)
    return None


def clock_discipline():
    """Return (synchronized, frequency_ppm, maximum_error_us) of the wall clock (adjtimex). Raises OSError."""
    cdef timex t
    memset(&t, 0, sizeof(t))
    if adjtimex(&t) < 0:
        raise OSError(last_errno, f"adjtimex: {errno.errorcode.get(last_errno, last_errno)}")
    return not t.status & STA_UNSYNC, t.freq / 65536, t.maxerror
