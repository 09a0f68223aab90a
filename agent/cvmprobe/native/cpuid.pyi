"""What the processor, or whoever answers for it, says of itself."""

def leaf(eax: int, ecx: int = 0) -> tuple[int, int, int, int] | None:
    """Return (eax, ebx, ecx, edx) of a leaf as the processor answers it; None where there is no CPUID.

    A leaf beyond the highest one has no meaning of its own: look at leaf 0, 0x40000000 or 0x80000000 first.
    """
