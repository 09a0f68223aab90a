"""What the processor, or whoever answers for it, says of itself."""

from libc.stdint cimport uint32_t


cdef extern from "node/cpuid_leaf.h" nogil:
    int cpuid_leaf(uint32_t leaf, uint32_t subleaf, uint32_t *out)


def leaf(uint32_t eax, uint32_t ecx=0):
    """Return (eax, ebx, ecx, edx) of a leaf as the processor answers it; None where there is no CPUID.

    A leaf beyond the highest one has no meaning of its own: look at leaf 0, 0x40000000 or 0x80000000 first.
    """
    cdef uint32_t[4] registers
    if not cpuid_leaf(eax, ecx, registers):
        return None
    return registers[0], registers[1], registers[2], registers[3]
