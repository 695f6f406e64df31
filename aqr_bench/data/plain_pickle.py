"""Read pickles of plain data (numpy arrays, dtypes, scalars, builtin containers) and execute nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aqr_bench.errors import UserError, require_file, short


def load_plain_pickle(path: str | Path, what: str = "pickle", remedy: str = "Check the path.") -> Any:
    """Read a pickle file of plain data, whoever wrote it.

    Files written under numpy 1.x and 2.x are read alike: the two differ in the names of numpy's modules only.

    Args:
        path: the file.
        what: what the file is, for messages ("ground-truth database").
        remedy: how to get a good one, for messages.
    Returns:
        None, bools, numbers, strings, bytes, tuples, lists, dicts, sets, numpy arrays, dtypes and scalars.
    Raises:
        UserError: the file is missing, truncated or damaged, or asks for anything else by name.
    """
    path = require_file(path, what, remedy)
    with path.open("rb") as handle, naming(f"{what} {path}", remedy):
        return read_plain_pickle(handle)


class PickleError(UserError):
    """A pickle that is damaged, or no plain data; who knows the file puts its name before this."""


@contextmanager
def naming(name: str, remedy: str = "") -> Iterator[None]:
    """Put the file's name before, and the remedy behind, what :func:`read_plain_pickle` says about a pickle."""
    try:
        yield
    except PickleError as error:
        raise UserError(f"{name} {error} {remedy}".strip()) from error


def read_plain_pickle(handle: BinaryIO) -> Any:
    """Plain data out of an open file, as :func:`load_plain_pickle`; raises PickleError, which names no file."""
    try:
        return _PlainUnpickler(handle).load()
    except _RefusedError as error:
        raise PickleError(f"asks for '{error}', which is no plain data. Nothing of it was executed.") from None
    except Exception as error:  # a damaged stream can fail in any opcode
        raise PickleError(f"is truncated or damaged ({type(error).__name__}: {short(error, 160)}).") from error


class _RefusedError(Exception):
    """Holds the name of the refused global."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((_ALIASES.get(module, module), name))
        if known is None:
            raise _RefusedError(f"{module}.{name}")
        return known


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``: protocols 0 to 2 write bytes as latin-1 text, and need no other codec."""
    if encoding != "latin1":
        raise ValueError(f"codec '{encoding}'")
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stands in for numpy's function of this name, by which protocol 5 writes arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


# Taken from pickles rather than imported: the modules have other names in numpy 1 and numpy 2.
_reconstruct: Callable = np.zeros(1).__reduce__()[0]
_scalar: Callable = np.float64(0).__reduce__()[0]

_ALIASES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
}
