"""histogram.h, and its owner for Python."""

from libc.stdint cimport uint64_t


cdef extern from "engine/histogram.h" nogil:
    enum:
        HISTOGRAM_SCHEMA
        HISTOGRAM_BUCKETS
    struct histogram:
        uint64_t sum
        uint64_t squares_low
        uint64_t squares_high
        uint64_t minimum
        uint64_t maximum
        uint64_t zero
        uint64_t overflow
        uint64_t *buckets
    void histogram_init(histogram *h)
    unsigned int histogram_index(uint64_t value)
    void histogram_record(histogram *h, uint64_t value_ns)
    void histogram_add(histogram *into, const histogram *source)
    uint64_t histogram_count(const histogram *h)
    uint64_t histogram_upper(unsigned int index)
    int histogram_subtract(histogram *rest, const histogram *now, const histogram *then)


cdef class Histogram:
    cdef histogram *_h
