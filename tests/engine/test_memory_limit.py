"""A limit on memory: reached, it is an error that records call out of memory; after it, all is as it was."""

from __future__ import annotations

import resource

import psutil
import pytest
import torch

from aqr_bench.engine.memory_limit import memory_limit
from aqr_bench.records.record import status_of


def room_for(megabytes: int) -> int:
    return psutil.Process().memory_info().data // 2**20 + megabytes


@pytest.mark.parametrize("allocate", [lambda size: torch.zeros(size // 4), bytearray])
def test_more_than_the_limit_is_out_of_memory(allocate):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises((RuntimeError, MemoryError)) as error, memory_limit(room_for(500)):
        allocate(2000 * 2**20)
    assert status_of(error.value) == "oom"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(allocate(2000 * 2**20)) > 0


def test_no_limit_is_no_limit():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(None):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_limit_that_is_passed_already_is_told_before_anything_else_fails():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError, match=r"the process had \d+ MB before it began") as error, memory_limit(1):
        pytest.fail("the block was entered")
    assert status_of(error.value) == "oom" and resource.getrlimit(resource.RLIMIT_DATA) == before
