"""Feature maps of frozen branches on disk, by all that they are computed from, so that they are computed once."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from aqr_bench.atomic import atomic_write
from aqr_bench.console import print_line

_DIGEST_BYTES = 16
RESERVE_BYTES = 2_000_000_000  # that stay free on the disk


class FeatureCache:
    """One file per sample and branch: a digest of what follows, then the levels as ``torch.save`` writes them.

    Several processes may use one folder. A file that is truncated or damaged is computed and written again. Nothing is
    written once the folder has ``max_bytes`` (counted when this process first writes, so that processes at the same
    time may exceed it by what each of them adds) or the disk is nearly full.

    Args:
        context: what features depend on besides the model and its input: versions of code and packages, the CPU.
    """

    def __init__(self, folder: Path, context: str, max_bytes: int) -> None:
        self.folder, self.context, self.max_bytes = folder, context, max_bytes
        self.hits = self.misses = 0
        self._bytes: int | None = None  # in the folder, as far as known
        self._full = False

    def branch_digest(self, settings: str, parts: Sequence[nn.Module], training: bool) -> bytes:
        """Digest of a branch: settings, weights and buffers, mode of the detector, and how torch computes."""
        torch_facts = (torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
        digest = hashlib.blake2b(repr((self.context, settings, training, torch_facts)).encode())
        for part in parts:
            digest.update(repr(part).encode())
            for name, value in part.state_dict().items():
                _update(digest, name, value)
        return digest.digest()

    def levels(self, branch: bytes, sample: Tensor, compute: Callable[[], Iterable[Tensor]]) -> list[Tensor]:
        """``compute()``, the levels of features of one sample, or what it returned before: equal in bits and strides.

        Args:
            branch: see ``branch_digest``.
            sample: the branch's input, on the CPU.
        """
        digest = hashlib.blake2b(branch, digest_size=_DIGEST_BYTES)
        _update(digest, "sample", sample)
        path = self.folder / f"{digest.hexdigest()}.features"
        levels = _read(path)
        if levels is None:
            self.misses += 1
            levels = [level.detach().clone() for level in compute()]
            self._write(path, levels)
        else:
            self.hits += 1
        return levels

    def _write(self, path: Path, levels: list[Tensor]) -> None:
        with suppress(OSError):  # no place, or the folder is being deleted: the features are there all the same
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._has_room():
                file = io.BytesIO()
                torch.save(levels, file)
                content = file.getbuffer()
                with atomic_write(path, shared=True) as temporary, temporary.open("wb") as out:
                    out.write(_checksum(content))
                    out.write(content)
                self._bytes += len(content)

    def _has_room(self) -> bool:
        if self._bytes is None:
            self._bytes = sum(file.stat().st_size for file in self.folder.iterdir())
        if not self._full and self._bytes >= self.max_bytes:
            self._full = True
            print_line(
                f"warning: {self.folder} is full: no more features are stored. aqr-bench gc --delete empties it."
            )
        return not self._full and shutil.disk_usage(self.folder).free > RESERVE_BYTES


def _read(path: Path) -> list[Tensor] | None:
    """What ``path`` holds; None where it is not there or not as it was written."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    checksum, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if checksum != _checksum(content):
        return None
    file = io.BytesIO(content)
    try:
        return torch.load(file, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError):  # of another program, with a checksum that is right
        return None


def _checksum(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _update(digest: hashlib.blake2b, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
    # As bytes: numpy does not know every type.
    digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())
