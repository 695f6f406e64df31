"""A batch that memory does not suffice for shrinks, and what was asked for stays known."""

import pytest

from aqr_bench.cost.batches import RUNS, throughput, with_smaller_batches


def limited(largest, tried):
    def run(size):
        tried.append(size)
        if size > largest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return f"done with {size}"

    return run


def test_a_batch_that_fits_is_left_alone():
    assert with_smaller_batches(4, limited(4, [])) == ("done with 4", 4, None)


def test_a_batch_is_halved_until_it_fits_and_says_so():
    tried = []
    assert with_smaller_batches(8, limited(2, tried)) == ("done with 2", 2, "out of memory with 4 samples")
    assert tried == [8, 4, 2]


def test_one_sample_that_does_not_fit_is_an_error():
    with pytest.raises(RuntimeError, match="out of memory"):
        with_smaller_batches(4, limited(0, []))


def test_other_errors_do_not_shrink_anything():
    def broken(size):
        raise ValueError("wrong shape")

    with pytest.raises(ValueError, match="wrong shape"):
        with_smaller_batches(4, broken)


def test_throughput_stops_at_the_first_size_that_does_not_fit():
    runs = []

    def step_of(size):
        if size > 3:
            raise MemoryError
        return lambda: runs.append(size)

    rows = throughput([8, 1, 2, 4], step_of)
    assert [(r["asked"], r["batch_size"], r["status"]) for r in rows] == [(1, 1, "ok"), (2, 2, "ok"), (4, 2, "oom")]
    assert rows[-1]["reason"] == "out of memory with 4 samples"
    assert all(r["samples_per_s"] == pytest.approx(1000 * r["batch_size"] / r["latency_ms"]) for r in rows)
    assert runs.count(1) == RUNS + 1


def test_nothing_fits():
    def step_of(size):
        raise MemoryError

    assert throughput([1, 2], step_of) == [{"asked": 1, "batch_size": None, "status": "oom", "samples_per_s": None}]
