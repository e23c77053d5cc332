"""Parameters that lie in a file which is mapped into memory (Linux).

Says whether they are as in the file, and keeps them out of memory, both without reading them. A private
mapping shows the file's pages until somebody writes to one, which then becomes the process's own; the kernel
tells the two apart in /proc/self/pagemap.
"""

import ctypes
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from torch import Tensor

_PAGE = mmap.PAGESIZE
_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
_MADV_PAGEOUT = 21  # not yet among the constants of `mmap`


class _Mapping(NamedTuple):
    begin: int
    end: int
    file: tuple[object, ...]


def files_of(tensors: Iterable[Tensor]) -> frozenset[tuple[object, ...]] | None:
    """The files that the tensors lie in, with their sizes and times; None where the bytes have to be read.

    That is where a tensor lies elsewhere, where one was written to, and where the system does not say.
    """
    try:
        mappings = _private_mappings()
        begins = [mapping.begin for mapping in mappings]
        found = set()
        with open("/proc/self/pagemap", "rb") as pages:
            for tensor in tensors:
                begin, end = _memory(tensor)
                place = bisect_right(begins, begin) - 1
                if tensor.device.type != "cpu" or place < 0 or end > mappings[place].end:
                    return None
                pages.seek(begin // _PAGE * 8)
                state = np.frombuffer(pages.read((-(-end // _PAGE) - begin // _PAGE) * 8), np.uint64)
                own = (state & _PRESENT != 0) & (state & _OF_A_FILE == 0) | (state & _SWAPPED != 0)
                if own.any():
                    return None
                found.add(mappings[place].file)
    except (OSError, ValueError):
        return None
    return frozenset(found)


def let_go(tensors: Iterable[Tensor]) -> None:
    """Takes the pages of mapped tensors out of memory; whoever looks at one gets it from the file again."""
    advise = ctypes.CDLL(None).madvise
    for begin, end in map(_memory, tensors):
        begin = begin // _PAGE * _PAGE
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_PAGEOUT)


def _memory(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


def _private_mappings() -> list[_Mapping]:
    mappings = []
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            places, rights, _, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
            if inode == "0" or not rights.endswith("p") or not path:
                continue
            begin, end = (int(place, 16) for place in places.split("-"))
            mappings.append(_Mapping(begin, end, (device, inode, *_state(path[0], int(inode)))))
    return mappings


def _state(path: str, inode: int) -> tuple[int, ...]:
    """Size and time of the file, if it is still there under its name."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_size, found.st_mtime_ns) if found.st_ino == inode else ()
