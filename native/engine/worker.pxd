"""worker.h: one thread of an engine, and the gate it starts and ends through."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from cvmprobe.native.placement cimport placement


cdef extern from "engine/worker.h" nogil:
    enum:
        WORKER_NAME_BYTES
    struct gate:
        uint32_t ready
        uint32_t go
        uint32_t ended
    struct worker
    ctypedef void (*worker_loop)(worker *) noexcept nogil
    ctypedef int (*worker_prepare)(worker *) noexcept nogil
    struct worker:
        uint32_t running
        uint32_t index
        uint64_t start_ns
        uint64_t deadline_ns
        const char *error_call
        int error_errno
        int32_t tid
        worker_loop loop
        worker_prepare prepare
        const placement *placement
        gate *gate
        char *name
    int worker_running(const worker *w)
    void worker_fail(worker *w, const char *call, int error)
    const char *worker_error_call(const worker *w)
    void worker_halt(worker *w)
    int worker_spawn(worker *w)
    void worker_join(worker *w)
    uint64_t worker_cpu_ns(const worker *w)
    uint64_t worker_run_delay_ns(const worker *w)
    int gate_await(const uint32_t *word, uint32_t count, uint64_t at_ns)
    void gate_set(gate *g, uint32_t go)
