"""Counting datagrams (udp_sequence.h), reachable from Python so that tests can hold it against a slow oracle."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from cvmprobe.native.udp_sequence cimport SEQUENCE_KNOWN, jitter_take, sequence_take, udp_jitter, udp_sequence

KNOWN = SEQUENCE_KNOWN


cdef class Arrivals:
    """The tracker of one flow."""

    cdef udp_sequence _sequence
    cdef udp_jitter _jitter

    def __cinit__(self):
        memset(&self._sequence, 0, sizeof(udp_sequence))
        memset(&self._jitter, 0, sizeof(udp_jitter))

    def take(self, uint64_t number):
        """Count one datagram under this number; return how many numbers it jumped over."""
        return sequence_take(&self._sequence, number)

    def time(self, uint32_t sent_ns, uint32_t received_ns):
        """Take the time of one arrival, ns modulo 2^32 on either clock."""
        jitter_take(&self._jitter, sent_ns, received_ns)

    @property
    def counts(self):
        """What arrived so far, by the names of struct udp_sequence, and the jitter in ns."""
        return {
            "next": self._sequence.next,
            "unique": self._sequence.unique,
            "duplicates": self._sequence.duplicates,
            "reordered": self._sequence.reordered,
            "reorder_extent": self._sequence.reorder_extent,
            "stale": self._sequence.stale,
            "jitter_ns": self._jitter.sixteenfold >> 4,
        }
