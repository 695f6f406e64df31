"""Times in turns, their summary and their ratios."""

import pytest

from aqr_bench.cost.timing import Timings, interleaved, ratio, summary, timing_facts


def test_every_function_runs_once_a_round_and_in_changing_order():
    ran = []
    times = interleaved({name: lambda name=name: ran.append(name) for name in "abc"}, warmup=2, rounds=20)
    assert ran[:6] == list("aabbcc")
    rounds = [tuple(ran[i : i + 3]) for i in range(6, len(ran), 3)]
    assert len(rounds) == 20 and all(sorted(r) == list("abc") for r in rounds) and len(set(rounds)) > 3
    assert all(len(t.wall_ms) == len(t.cpu_ms) == 20 for t in times.values())


def test_the_95th_percentile_is_one_of_the_values():
    result = summary([float(v) for v in range(100, 0, -1)])
    assert result["median"] == 50.5 and result["p95"] == 95.0 and result["values"][0] == 100.0


def test_ratios_are_taken_round_by_round():
    # The machine was twice as slow in the second half: the ratio of the medians would not be 1.2.
    reference = [10.0, 10.0, 10.0, 20.0, 20.0, 20.0]
    result = ratio([12.0, 12.0, 12.0, 24.0, 24.0, 24.0], reference)
    assert result == pytest.approx({"median": 1.2, "low": 1.2, "high": 1.2})
    assert ratio([3.0], [2.0]) == {"median": 1.5, "low": 1.5, "high": 1.5}


def test_wall_and_processor_time_have_ratios_of_their_own():
    result = timing_facts(Timings([20.0, 30.0], [10.0, 10.0]), Timings([10.0, 10.0], [5.0, 10.0]))
    assert result["latency_ratio"] == 2.5 and result["latency_cpu_ratio"] == 1.5
    assert result["latency_ratio_quartiles"] == [2.25, 2.75] and result["latency_ms"]["median"] == 25.0
