"""A limit on the memory of this process, so that too large a training ends as a record and not by the kernel's hand."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def memory_limit(megabytes: int | None) -> Iterator[None]:
    """Within the block, allocations beyond ``megabytes`` fail, as torch's RuntimeError or a MemoryError; None: none.

    What counts is the process' own memory, that is private writable mappings (RLIMIT_DATA of Linux), not the files that
    libraries map. A GPU's memory is not limited. Worker processes inherit the limit, each for itself. MemoryError at
    once if the process has more already: then the next allocation would fail, in a library that may not look.
    """
    if megabytes is None:
        yield
        return
    has = psutil.Process().memory_info().data // 2**20
    if has > megabytes:
        raise MemoryError(f"the process had {has} MB before it began")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        # What comes after, the record of the failure, has to find memory.
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
