"""What happens on the pretended GPU, and where: host waits, uploads, refused operations, wrong results, kernels."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))


class Place(NamedTuple):
    """The innermost line of the product (else of an mm* package) that is being executed."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


ELSEWHERE = Place("elsewhere", 0, "")


@dataclass
class Counters:
    """Events by (what, place).

    Args:
        waits: the host has to wait for the GPU: ``item``, ``tolist``, ``nonzero``, a copy to the host.
        uploads: copies from pageable host memory to the GPU, but for non-blocking ones.
        mismatches: operations with CPU and CUDA tensors, which CUDA refuses.
        faults: calls that CUDA accepts and answers wrongly.
        pickled: CUDA tensors that go into a file, which a machine without a GPU loads with ``map_location`` only.
        kernels: attention kernels that ran, by name.
    """

    waits: Counter = field(default_factory=Counter)
    uploads: Counter = field(default_factory=Counter)
    mismatches: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    pickled: Counter = field(default_factory=Counter)
    kernels: Counter = field(default_factory=Counter)

    def text(self, limit: int = 25) -> str:
        """All counters for a reader, the most frequent events first."""
        lines = []
        for title, counter in vars(self).items():
            lines.append(f"--- {title}: {sum(counter.values())}")
            for event, count in counter.most_common(limit):
                lines.append(f"{count:8d}  " + (event if isinstance(event, str) else f"{event[0]} at {event[1]}"))
        return "\n".join(lines)

    def by_function(self, name: str) -> dict[str, int]:
        """``waits`` or ``uploads`` by "file function: what", which an edit elsewhere in the file does not change."""
        result: Counter = Counter()
        for (what, place), count in getattr(self, name).items():
            result[f"{f'{place.file} {place.function}'.strip()}: {what}"] += count
        return dict(sorted(result.items()))


current = Counters()


@contextmanager
def counted() -> Iterator[Counters]:
    """Count what happens in this block by itself; afterwards it is added to the process' counters."""
    global current
    before, current = current, Counters()
    own = current
    try:
        yield own
    finally:
        current = before
        for name, counter in vars(own).items():
            getattr(current, name).update(counter)


def wait(what: str) -> None:
    """Count a wait of the host."""
    current.waits[what, where()] += 1


def upload(what: str) -> None:
    """Count a copy to the GPU."""
    current.uploads[what, where()] += 1


def fault(text: str) -> None:
    """Count a call that CUDA answers wrongly."""
    current.faults[text, where()] += 1


def kernel(text: str) -> None:
    """Count an attention kernel."""
    current.kernels[text] += 1


def where() -> Place:
    """The innermost frame of the product; else of a package mm*; else :data:`ELSEWHERE`."""
    product, fallback = _product(), None
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(product):
            return _place(frame, name[len(product) :])
        if fallback is None and "site-packages/mm" in name:
            fallback = _place(frame, name.split("site-packages/")[-1])
        frame = frame.f_back
    return fallback or ELSEWHERE


def _place(frame: object, file: str) -> Place:
    return Place(file, frame.f_lineno, frame.f_code.co_name)


@functools.cache
def _product() -> str:
    spec = importlib.util.find_spec("aqr_bench")
    return (spec.submodule_search_locations[0] if spec else "no aqr_bench") + os.sep


def write_events(folder: str) -> None:
    """Leave this process' mismatches and faults in ``folder``, if there are any."""
    result = {
        name: [f"{event[0]} at {event[1]}" for event in getattr(current, name)] for name in ("mismatches", "faults")
    }
    if any(result.values()):
        result["command"] = sys.argv
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(result))
