"""Memory between the steps of a training: kept, not handed back to the system and asked for anew.

A step frees nearly all that it allocated. glibc's allocator then hands the top of its heap back, and blocks of more than
32 MiB at once; the next step touches each page for the first time again, which the kernel has to find and clear: up to
60,000 faults a step of ViT-Ti, a twentieth of its time. Only where the C library is glibc, else nothing happens.

Detection goes without: its images differ in size, and so would the pieces that are kept.
"""

import contextlib
import ctypes
import gc

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
MOST = 2**31 - 1
USUAL = {TRIM: 2**26, MMAP: 2**25}  # what glibc itself comes to once a large block was freed, and the most


@contextlib.contextmanager
def kept():
    """Within, freed memory stays with this process; afterwards what is free goes back to the system."""
    mallopt = function("mallopt")
    for what in USUAL:
        mallopt(what, MOST)
    try:
        yield
    finally:
        for what, usual in USUAL.items():
            mallopt(what, usual)
        trim()


def trim():
    """Hand what is free, but still held by the C library, back to the system."""
    gc.collect()
    function("malloc_trim")(0)


def function(name):
    """A function of the C library; where there is none, one that does nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Windows has no library without a name
        return getattr(ctypes.CDLL(None), name)
    return lambda *given: None
