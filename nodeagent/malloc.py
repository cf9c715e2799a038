"""Keeping the C library's memory small in a process with threads."""

import contextlib
import ctypes

M_ARENA_MAX = -8
"""``mallopt(3)``: how many arenas threads may have."""


def use_few_arenas(most: int = 2) -> None:
    """Have threads share *most* arenas: glibc otherwise gives each up to 8 per processor, whose
    free memory it hardly returns. Other C libraries have no such thing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, most)
