"""The one life of every engine. An engine file subclasses Engine and fills in its hooks:

    __init__    call super().__init__(...), then self._staff(workers, sizeof(its struct), loop, prepare or NULL)
    _outfit     once per worker when armed: fill its struct, register its counters, histograms and ring
    _open       once when armed, after all _outfit, before the threads: open files, dial, say hello
    _interrupt  when stopped: wake what blocks longer than 50 ms (shut sockets down)
    _retire     undoes _outfit, once per worker that it was called for, after all threads are joined
    _release    undoes _open, once if it was called, after all threads are joined

The last three run without the GIL, also from dealloc. The struct of a worker starts with `worker`; its memory is
mapped, touched and zero before _outfit (so set file descriptors to -1 there first). A loop ends when
`running` falls, at `deadline_ns`, or after worker_fail.
"""

from libc.stdint cimport uint64_t

from cvmprobe.native.histogram cimport histogram
from cvmprobe.native.placement cimport placement
from cvmprobe.native.ring cimport ring
from cvmprobe.native.worker cimport gate, worker, worker_loop, worker_prepare


cdef struct source:
    unsigned int metric
    void *where


cdef struct sources:
    unsigned int count
    source *items


cdef class Snapshot:
    cdef readonly object t_ns
    cdef readonly bint finished
    cdef readonly dict counters
    cdef readonly dict histograms


cdef class Engine:
    cdef readonly str state
    cdef readonly object started_ns
    cdef readonly tuple thread_ids
    cdef dict _facts
    cdef object _duration_ns
    cdef object _error
    cdef list _counter_names
    cdef list _histogram_names
    cdef sources _counters
    cdef sources _histograms
    cdef sources _rings
    cdef unsigned int _workers
    cdef size_t _worker_bytes
    cdef char *_block
    cdef size_t _block_bytes
    cdef worker_loop _loop
    cdef worker_prepare _prepare
    cdef placement _placement
    cdef unsigned int _outfitted
    cdef bint _opened
    cdef int _readers
    cdef bint _stopping

    # For subclasses to call
    cdef int _staff(self, unsigned int workers, size_t worker_bytes, worker_loop loop,
                    worker_prepare prepare) except -1
    cdef worker *_worker(self, unsigned int index) noexcept nogil
    cdef int _count(self, str name, uint64_t *counter) except -1
    cdef int _observe(self, str name, histogram *distribution) except -1
    cdef int _sample(self, ring *samples, uint64_t capacity) except -1

    # For subclasses to fill in
    cdef int _outfit(self, worker *w) except -1
    cdef int _open(self) except -1
    cdef void _interrupt(self) noexcept nogil
    cdef void _retire(self, worker *w) noexcept nogil
    cdef void _release(self) noexcept nogil

    # Its own
    cdef gate *_gate(self) noexcept nogil
    cdef int _map_block(self) except -1
    cdef int _introduce(self, unsigned int index) except -1
    cdef int _spawn(self) except -1
    cdef int _raise_failure(self) except -1
    cdef object _failure(self)
    cdef void _end_workers(self) noexcept nogil
    cdef void _free(self) noexcept nogil
    cdef uint64_t _copy(self, uint64_t at_ns, uint64_t *counters, histogram **histograms,
                        bint *finished) noexcept nogil
