"""flight.h: datagram requests under way, each with the same patience."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "udp/flight.h" nogil:
    const uint64_t FLIGHT_SLOTS
    enum flight_arrival:
        FLIGHT_UNKNOWN
        FLIGHT_IN_TIME
        FLIGHT_LATE
        FLIGHT_DUPLICATE
    struct flight_slot:
        uint64_t intended_ns
        uint64_t began_ns
        uint32_t socket
    struct flight:
        flight_slot *slots
        uint64_t patience_ns
        uint64_t next
        uint64_t waiting
    int flight_is_full(const flight *f)
    uint64_t flight_begin(flight *f, uint32_t socket, uint64_t intended_ns, uint64_t began_ns)
    flight_arrival flight_land(flight *f, uint64_t sequence, flight_slot **slot)
    flight_slot *flight_expire(flight *f, uint64_t now_ns)
