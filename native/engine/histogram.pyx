# cython: boundscheck=False, wraparound=False
"""Owner of one histogram (histogram.h): Python records, copies, subtracts and reads it."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from cvmprobe.native.histogram cimport (
    HISTOGRAM_BUCKETS, HISTOGRAM_SCHEMA, histogram, histogram_add, histogram_count, histogram_init, histogram_record,
    histogram_subtract, histogram_upper,
)


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


SCHEMA = HISTOGRAM_SCHEMA
BUCKETS = HISTOGRAM_BUCKETS


def bucket_upper(unsigned int index):
    """Largest integer that bucket `index` holds."""
    if index >= <unsigned int>HISTOGRAM_BUCKETS:
        raise IndexError(f"bucket {index}: there are {HISTOGRAM_BUCKETS}")
    return histogram_upper(index)


cdef class Histogram:
    """Counts of values in ns, schema 8, from 0 to beyond 2^37."""

    def __cinit__(self):
        self._h = <histogram *>aligned_alloc(64, sizeof(histogram))
        if self._h is NULL:
            raise MemoryError("no room for a histogram")
        histogram_init(self._h)

    def __dealloc__(self):
        free(self._h)

    def record(self, uint64_t value):
        """Count one value."""
        histogram_record(self._h, value)

    def record_many(self, const uint64_t[::1] values):
        """Count every value of a buffer of u64."""
        cdef Py_ssize_t i
        with nogil:
            for i in range(values.shape[0]):
                histogram_record(self._h, values[i])

    def add(self, Histogram other not None):
        """Merge another histogram into this one; nothing is lost."""
        histogram_add(self._h, other._h)

    def copy(self):
        """Return a histogram of its own that holds the same."""
        cdef Histogram twin = Histogram()
        memcpy(twin._h, self._h, sizeof(histogram))
        return twin

    def minus(self, Histogram earlier not None):
        """Return what was recorded since `earlier`, a copy of this histogram from before.

        Its extremes are exact where they are new extremes of the whole, else at bucket resolution.
        Raises ValueError where `earlier` holds what this one does not.
        """
        cdef Histogram rest = Histogram()
        if histogram_subtract(rest._h, self._h, earlier._h) < 0:
            raise ValueError("the earlier histogram is no earlier copy of this one: it holds more")
        return rest

    def sparse(self):
        """Return the indices of the buckets that hold something, ascending, and their counts."""
        cdef int i
        indices = []
        counts = []
        for i in range(HISTOGRAM_BUCKETS):
            if self._h.buckets[i]:
                indices.append(i)
                counts.append(self._h.buckets[i])
        return indices, counts

    @property
    def zero(self):
        """How many values were 0."""
        return self._h.zero

    @property
    def overflow(self):
        """How many values were above 2^37."""
        return self._h.overflow

    @property
    def sum(self):
        """Sum of all values, modulo 2^64."""
        return self._h.sum

    @property
    def sum_squares(self):
        """Sum of the squares of all values, modulo 2^128."""
        return (<object>self._h.squares_high << 64) | self._h.squares_low

    @property
    def count(self):
        """How many values were recorded."""
        return histogram_count(self._h)

    @property
    def minimum(self):
        """Smallest value; None while empty."""
        return self._h.minimum if self.count else None

    @property
    def maximum(self):
        """Largest value; None while empty."""
        return self._h.maximum if self.count else None
