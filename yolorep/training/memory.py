"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import platform

#: glibc's names of two settings, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let the process keep the memory that tensors give back, up to 2 GB, for the next ones.

    By default glibc returns large blocks to the system at once, and every training step on a CPU spends time on page
    faults anew. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that is accepted
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
