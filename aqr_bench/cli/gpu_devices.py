"""Which GPUs this machine has, and which of them CUDA_VISIBLE_DEVICES leaves visible; the standard library alone."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.console import print_warning
from aqr_bench.errors import UserError, join_names, short

VISIBLE = "CUDA_VISIBLE_DEVICES"
# So many GPUs there are, whatever is really there: for tests, and for machines that have GPUs and no nvidia-smi.
PRETENDED = "AQR_BENCH_GPUS"
# What nvidia-smi listed on this machine, handed on to the jobs: without persistence mode it takes seconds.
LISTING = "_AQR_BENCH_GPU_LISTING"
PATIENCE_S = 60
NO_DEVICE = frozenset(["-1", "NoDevFiles", "none", "void"])  # as an entry of CUDA_VISIBLE_DEVICES; so is an empty one
PROC = Path("/proc/driver/nvidia/gpus")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Card:
    """A GPU as the driver lists it: index in order of the PCI bus, UUID, and the UUIDs of its MIG instances."""

    index: int
    uuid: str
    instances: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance, that a process may use. ``entry``: its name in CUDA_VISIBLE_DEVICES."""

    entry: str
    uuid: str


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """The GPUs that a process with this environment may use, in its order; none without a driver or with all hidden.

    UserError: CUDA_VISIBLE_DEVICES names a GPU that is not there, or one twice. (CUDA itself would hide it, and every
    GPU after it, without a message.)
    """
    environment = os.environ if environment is None else environment
    setting = environment.get(VISIBLE)
    if setting is not None and setting.split(",")[0].strip() in {"", *NO_DEVICE}:
        return ()
    cards = installed_cards(environment)
    if setting is None:
        return _all_of(cards)
    return _named(setting, cards) if cards else ()


def limited(gpus: Sequence[Gpu], count: int | None, where: str) -> tuple[Gpu, ...]:
    """The first ``count`` GPUs, or all of them for None. UserError, which begins with ``where``, if there are fewer."""
    if count is not None and count > len(gpus):
        visible = f"{len(gpus)} visible here" if gpus else "none is visible here"
        raise UserError(f"{where}: {count} GPUs are asked for, {visible} (nvidia-smi -L, {VISIBLE}). Ask for fewer.")
    return tuple(gpus[:count])


def show_only(gpus: Sequence[Gpu], environment: MutableMapping[str, str]) -> None:
    """Leave these GPUs, and no other, visible to processes that start with ``environment``."""
    environment[VISIBLE] = ",".join(gpu.entry for gpu in gpus)


# ---------------------------------------------------------------- what is installed


def installed_cards(environment: Mapping[str, str] | None = None) -> tuple[Card, ...]:
    """Cards of this machine, or of this container or batch job where it has its own; none without an NVIDIA driver."""
    environment = os.environ if environment is None else environment
    if (text := environment.get(PRETENDED)) is not None:
        if not re.fullmatch(r"\d{1,3}", text):
            raise UserError(f"{PRETENDED}: '{short(text)}' is no number of GPUs; set it to 0 .. 999, or not at all")
        return tuple(Card(index, f"GPU-pretended-{index}") for index in range(int(text)))
    stamp, _, listing = environment.get(LISTING, "").partition("\n")
    return parse_listing(listing if stamp == _here(environment) else _driver_listing())


def hand_on_listing(environment: MutableMapping[str, str]) -> None:
    """Let processes on this machine, which start with ``environment``, do without a call of nvidia-smi each."""
    if PRETENDED not in environment:
        environment[LISTING] = f"{_here(environment)}\n{_driver_listing()}"


def parse_listing(text: str) -> tuple[Card, ...]:
    """Cards in the output of ``nvidia-smi -L``."""
    cards: list[Card] = []
    for line in text.splitlines():
        if card := re.match(r"GPU (\d+): .*\(UUID: ([^\s)]+)\)", line):
            cards.append(Card(int(card[1]), card[2]))
        elif cards and (instance := re.match(r"\s+MIG .*\(UUID: ([^\s)]+)\)", line)):
            cards[-1] = Card(cards[-1].index, cards[-1].uuid, (*cards[-1].instances, instance[1]))
    return tuple(cards)


def _here(environment: Mapping[str, str]) -> str:
    """This machine since its start, and the batch job: another job of the same node may see other GPUs."""
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = f"process {os.getpid()}"  # of no other process: each looks for itself
    return f"{boot} {environment.get('SLURM_JOB_ID', '')}"


@functools.cache
def _driver_listing() -> str:
    """What ``nvidia-smi -L`` prints; the same lines from /proc where it is not installed."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return _proc_listing(PROC)
    try:
        listing = [command, "-L"]
        done = subprocess.run(listing, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    else:
        if done.returncode == 0:
            return done.stdout
        problem = " ".join((done.stdout + done.stderr).split()) or f"it ended with {done.returncode}"
    print_warning(f"no GPU is used: {command} -L: {short(problem, 200)}")
    return ""


def _proc_listing(folder: Path) -> str:
    lines = []
    for file in sorted(folder.glob("*/information")):
        if uuid := re.search(r"^GPU UUID:\s*(\S+)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            lines.append(f"GPU {len(lines)}: {file.parent.name} (UUID: {uuid[1]})")
    return "\n".join(lines)


# ---------------------------------------------------------------- what is visible


def _all_of(cards: Sequence[Card]) -> tuple[Gpu, ...]:
    """Every card, or the instances of one that is divided: CUDA by itself would show the first instance alone."""
    if any(card.instances for card in cards):  # then CUDA's numbers are no longer those of the driver
        return tuple(Gpu(uuid, uuid) for card in cards for uuid in card.instances or (card.uuid,))
    return tuple(Gpu(str(card.index), card.uuid) for card in cards)


def _named(setting: str, cards: Sequence[Card]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, by index or by (the beginning of) a UUID, up to the first NO_DEVICE."""
    gpus: dict[str, Gpu] = {}
    for entry in map(str.strip, setting.split(",")):
        if entry in {"", *NO_DEVICE}:
            break
        uuid = _uuid_of(entry, cards)
        if uuid in gpus:
            raise UserError(f"{VISIBLE}={short(setting)}: names the GPU {entry} twice; CUDA would show none at all")
        gpus[uuid] = Gpu(entry, uuid)
    return tuple(gpus.values())


def _uuid_of(entry: str, cards: Sequence[Card]) -> str:
    if entry.isdecimal():
        card = next((card for card in cards if card.index == int(entry)), None)
        if card is not None:
            return (card.instances or (card.uuid,))[0]
        known = join_names(str(card.index) for card in cards)
    else:
        uuids = [uuid for card in cards for uuid in (card.uuid, *card.instances)]
        matches = [uuid for uuid in uuids if uuid == entry] or [uuid for uuid in uuids if uuid.startswith(entry)]
        if len(matches) == 1:
            return matches[0]
        known = join_names(matches or uuids)
    raise UserError(f"{VISIBLE}: '{short(entry)}' names no GPU of this machine, or more than one (there are: {known})")
