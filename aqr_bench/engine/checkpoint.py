"""Published weights of CMT and MoME: look into a checkpoint file, or convert it for the official configs.

aqr-bench checkpoint inspect FILE
aqr-bench checkpoint convert FILE [--out OUT] [--config NAME] [--force]

Files of mmcv 0.x and 1.x, of mmengine and of aqr-bench itself, zipped or in torch's old format. Nothing in a file is
ever run: torch reads it weights-only, and every class that it names beyond torch's own is replaced by an inert one.
"""

from __future__ import annotations

import builtins
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aqr_bench.atomic import atomic_write
from aqr_bench.engine.weights import weights_fault
from aqr_bench.errors import UserError, require_disk, require_file
from aqr_bench.foreign_files import placeholder_at
from aqr_bench.study.hashes import sha256_file

if TYPE_CHECKING:
    from aqr_bench.cmt.published_weights import Match

# Modules that only an attack would name (commands is an old name of subprocess); a file that does is refused, though
# a placeholder would make it harmless.
_REFUSED = "commands ctypes importlib marshal nt os posix pty runpy shutil socket subprocess sys"
_MAX_UNKNOWN = 100  # each unknown name costs one more reading of the file's pickle
_PREFIX = "placeholder."


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. ``state`` maps names without ``module.`` to tensors, which may lie in the mapped file.

    ``meta`` has what is of use and of a plain type: epoch, iter, ``*_version``, classes (tuple), config (text).
    ``placeholders`` are the names of classes and functions that were replaced, ``others`` the file's further entries.
    """

    path: Path
    format: str  # zip | legacy
    state: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    placeholders: tuple[str, ...]
    optimiser_bytes: int
    others: tuple[str, ...]


# ---------------------------------------------------------------- reading


def _placeholder(name: str, kind: type) -> type:
    """A class that takes any arguments and any state and does nothing.

    ``kind`` is object, or OrderedDict or list where the file wants to put items into it (a subclass of dict, a deque):
    then that is what its instances are, since the weights-only unpickler fills no other.
    """

    def new(cls: type, *_args: object, **_kwargs: object) -> object:
        return object.__new__(cls) if kind is object else kind()

    # A name of its own, so that torch's message tells which one has to be a dict or a list.
    return type(_PREFIX + name, (), {"__new__": new, "__setstate__": lambda _self, _state: None})


@contextmanager
def _only(stand_ins: Mapping[str, type]) -> Iterator[None]:
    """Let weights-only reading see torch's own globals and these placeholders, whatever else was allowed before."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(cls, name) for name, cls in stand_ins.items()]):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file without running anything in it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, asks for what no checkpoint needs, or has an entry among
            its weights that is not a tensor.
    """
    path = require_file(path, "checkpoint", "Give the path of a .pth file.")
    content, placeholders = _load(path, _mappable(path))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not the dict of a checkpoint")
    key = next((k for k in ("state_dict", "model") if k in content), None)
    meta = content.get("meta") if key else None
    return Checkpoint(
        path=path,
        format="zip" if zipfile.is_zipfile(path) else "legacy",
        state=_state(content[key] if key else content, path),
        meta=_facts(meta) if isinstance(meta, dict) else {},
        placeholders=placeholders,
        optimiser_bytes=_tensor_bytes(content.get("optimizer")) if key else 0,
        others=tuple(str(k) for k in content if k not in (key, "meta", "optimizer")) if key else (),
    )


def check_trained_classes(checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """UserError where a checkpoint says that its labels mean other classes, or the same in another order."""
    trained = checkpoint.meta.get("classes")
    if trained is None or list(trained) == list(classes):
        return
    label = next((i for i, pair in enumerate(zip(trained, classes, strict=False)) if pair[0] != pair[1]), None)
    what = f"it has {len(trained)} classes, the config {len(classes)}"
    if label is not None:
        what = f"label {label} is '{_shown(trained[label])}' in the checkpoint, '{classes[label]}' in the config"
    raise UserError(
        f"{checkpoint.path} was trained on other classes than the config has (metainfo.classes): {what}",
        f"Set the classes of data set and head to those of the checkpoint: {_shown(', '.join(trained), 400)}.",
    )


def _mappable(path: Path) -> bool:
    """True for a zip that torch.save wrote. One packed anew, as a mapped file, would give packed bytes for numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False  # the old format, or torch will say what is wrong


def _load(path: Path, mapped: bool) -> tuple[object, tuple[str, ...]]:
    """The file's content, and the names that placeholders stood in for.

    torch stops at the first name that it does not know, before anything comes of it. That name gets a placeholder, and
    the file is read again: cheap, since a zip is mapped and a legacy file has all its names before its numbers.
    """
    kinds: dict[str, type] = {}
    while len(kinds) <= _MAX_UNKNOWN:
        stand_ins = {name: _placeholder(name, kind) for name, kind in kinds.items()}
        try:
            with _only(stand_ins), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            return content, tuple(sorted(kinds))
        except Exception as error:  # a damaged file makes torch raise nearly anything
            if not _learn(str(error), kinds, path):
                if (kind := placeholder_at(path)) is not None:
                    what = f"{path} cannot be read as a checkpoint (it is {kind.name})"
                    raise UserError(what, kind.remedy) from error
                raise UserError(
                    f"{path} cannot be read as a checkpoint ({_reason(error)}). "
                    "Is it complete, and written by torch.save?"
                ) from error
    raise UserError(f"{path} names more than {_MAX_UNKNOWN} unknown classes, which no checkpoint needs")


def _learn(message: str, kinds: dict[str, type], path: Path) -> bool:
    """Take from torch's refusal which name wants which placeholder; False if it says nothing new."""
    unknown = re.search(r"nsupported (?:global: )?GLOBAL (.+?) (?:was not|whose module)", message)
    if unknown:
        # torch leaves out 'builtins.' in its message.
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        _refuse_hostile(name, path)
        is_new = name not in kinds
        kinds.setdefault(name, object)
        return is_new
    kind = OrderedDict if "SETITEM" in message else list if "lists, but got" in message else None
    for name, known in kinds.items():
        if kind and known is object and f"{_PREFIX}{name}'" in message:
            kinds[name] = kind
            return True
    return False


def _refuse_hostile(name: str, path: Path) -> None:
    if not name.isprintable():
        raise UserError(f"{path} names a class {_shown(name)!r}, which no program has: it is damaged")
    module, _, rest = name.partition(".")
    function = module == "builtins" and not isinstance(getattr(builtins, rest, object), type)
    # Bound methods are pickled through getattr, in mmengine's own checkpoints too: neutralised like any class.
    if module in _REFUSED.split() or (function and rest != "getattr"):
        raise UserError(f"{path} asks for {_shown(name)}, which no checkpoint needs: do not load it anywhere")


def _reason(error: Exception) -> str:
    """torch's reason on one line, without its advice to read the file unsafely."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
    return _shown(text.splitlines()[0].split(". ")[0], 160)


def _state(entries: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path} holds no weights: its state dict is {'empty' if entries == {} else 'not a dict'}")
    state: dict[str, Tensor] = {}
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise UserError(f"{path}: entry '{_shown(str(key))}' of its weights is a {kind}, not a tensor")
        name = key.removeprefix("module.")  # of DistributedDataParallel
        if name in state:
            raise UserError(f"{path} has '{_shown(name)}' twice, with and without 'module.'")
        state[name] = value.detach()
    return state


def _facts(meta: Mapping[Any, Any]) -> dict[str, Any]:
    facts = {k: v for k, v in meta.items() if k in ("epoch", "iter") and type(v) is int}
    texts = {k: v for k, v in meta.items() if isinstance(k, str) and type(v) is str}
    facts |= {k: v for k, v in texts.items() if k.endswith("_version") or k == "config"}
    if "cfg" in texts:  # mmengine's name for the config's text
        facts["config"] = texts["cfg"]
    data = meta.get("dataset_meta")
    for holder in (meta, data if isinstance(data, dict) else {}):
        for key in ("CLASSES", "classes"):
            names = holder.get(key)
            if isinstance(names, list | tuple) and all(type(n) is str for n in names):
                facts["classes"] = tuple(names)
    return facts


def _tensor_bytes(content: object) -> int:
    """Bytes of all tensors anywhere inside; a hostile file may hold a list that holds itself."""
    total, seen, todo = 0, set(), [content]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            total += item.numel() * item.element_size()
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple):
            todo.extend(item)
    return total


def _shown(text: str, length: int = 100) -> str:
    """Text out of a file, fit for a terminal and for one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:length]) + ("..." if len(text) > length else "")


def usable_weights(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The weights of a file; UserError names those that are not finite."""
    if fault := weights_fault(checkpoint.state):
        raise UserError(f"{checkpoint.path} cannot be used: {_shown(fault, 500)}", "Get the file again, or train anew.")
    return checkpoint.state


# ---------------------------------------------------------------- converting


def convert(path: str | Path, out: str | Path, config: str | None = None, force: bool = False) -> Match:
    """Write the weights of ``path`` to ``out`` as ``config`` (default: the one that fits) wants them.

    ``out`` holds ``state_dict`` (the config's names in its order, its dtypes, spconv 2 kernels) and ``meta``, all of
    plain types, and has been loaded strictly into the config's model before it got its name.

    Raises:
        UserError: see :func:`read_checkpoint`; nothing fits; weights are not finite;
            ``out`` exists and ``force`` is off, or is ``path``.
    """
    return _write(_readable(path, out, force), Path(out), config)


def _readable(path: str | Path, out: str | Path, force: bool) -> Checkpoint:
    """The checkpoint in ``path``, if ``out`` is a place to write to."""
    path, out = require_file(path, "checkpoint", "Give the path of a .pth file."), Path(out)
    if out.exists() and out.samefile(path):
        raise UserError(f"--out: {out} is the file to convert. Give another name.")
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"--out: {out} exists. Give another name{', or --force to replace it' * out.is_file()}.")
    if not out.parent.is_dir():
        raise UserError(f"--out: the folder {out.parent} does not exist. Create it or give another name.")
    return read_checkpoint(path)


def _write(checkpoint: Checkpoint, out: Path, config: str | None) -> Match:
    from aqr_bench.cmt import published_weights

    state, meta = checkpoint.state, checkpoint.meta
    match = published_weights.match_with(state, config) if config else published_weights.match(state)[0]
    if not match.fits:
        how = "does not fit" if config else "fits no published config, closest"
        raise UserError(f"{checkpoint.path} {how} {match.config}: {_shown(match.complaint(), 1500)}")
    require_disk(out.parent, 4 * sum(t.numel() for t in state.values()), "the converted checkpoint")
    usable_weights(checkpoint)  # only now: a file may claim any number of values
    facts = {
        "config": match.config,
        "source": checkpoint.path.name,
        "source_sha256": sha256_file(checkpoint.path),
        "source_layout": match.layout,
        **{k: v for k, v in meta.items() if k in ("epoch", "iter") or k.endswith("_version")},
        **({"classes": list(meta["classes"])} if "classes" in meta else {}),
    }
    try:
        with atomic_write(out) as temporary:
            with open(temporary, "wb") as file:
                torch.save({"state_dict": published_weights.to_layout(state, match.config), "meta": facts}, file)
            # Renamed to ``out`` only if it loads.
            written = torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
            published_weights.model_on_meta(match.config).load_state_dict(written, strict=True, assign=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror or error}") from error
    return match
