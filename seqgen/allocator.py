"""Large blocks of memory that are freed stay with the process, which asks for as large ones in each step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT = 2**31 - 1  # bytes at the end of the heap beyond which they go back


def keep_large_blocks() -> bool:
    """Have glibc make no mappings of their own for blocks above 32 MB, and keep what is freed.

    Otherwise each one comes as new pages, which cost as much to touch as the work that is done in them: the ranking of
    a batch among 50,000 items takes .56 of the time with it (`benchmarks/step_parts.py`).

    Returns:
        Whether that could be done: elsewhere than on Linux with glibc nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT))
