"""Memory that was used for a while."""

import ctypes
import sys


def give_back() -> None:
    """Gives the system what was freed: glibc keeps it for later, and buffers of megabytes may never come."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
