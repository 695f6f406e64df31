"""Which GPUs a process may use: nvidia-smi, /proc, CUDA_VISIBLE_DEVICES with numbers, UUIDs and MIG instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqr_bench.cli import gpu_devices
from aqr_bench.cli.gpu_devices import Card, Gpu, limited, parse_listing, show_only, visible_gpus
from aqr_bench.errors import UserError

PLAIN = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA H200 (UUID: GPU-aaaa2222-0000-0000-0000-000000000000)
GPU 2: NVIDIA H200 (UUID: GPU-bbbb3333-0000-0000-0000-000000000000)
"""
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc1111-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111aaaa-0000-0000-0000-000000000000)
  MIG 1g.5gb      Device  1: (UUID: MIG-GPU-cccc1111-0000-0000-0000-000000000000/9/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc2222-0000-0000-0000-000000000000)
"""
UUIDS = [line.rpartition("UUID: ")[2].strip(")") for line in PLAIN.splitlines()]
MIGS = ["MIG-1111aaaa-0000-0000-0000-000000000000", "MIG-GPU-cccc1111-0000-0000-0000-000000000000/9/0"]


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi first on PATH that prints a text and counts its calls; returns the function that sets it."""

    def install(text: str, code: int = 0) -> Path:
        (tmp_path / "text").write_text(text)
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/calls\ncat {tmp_path}/text\nexit {code}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return tmp_path / "calls"

    for name in (gpu_devices.VISIBLE, gpu_devices.PRETENDED, gpu_devices.LISTING):
        monkeypatch.delenv(name, raising=False)
    gpu_devices._driver_listing.cache_clear()
    yield install
    gpu_devices._driver_listing.cache_clear()


def entries(setting: str | None) -> list[str]:
    return [gpu.entry for gpu in visible_gpus({} if setting is None else {gpu_devices.VISIBLE: setting})]


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        (f"{UUIDS[1]},0", [UUIDS[1], "0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", ["1"]),  # CUDA's rule: what follows a device that is none is not visible
    ],
)
def test_the_setting_is_respected(smi, setting, seen):
    smi(PLAIN)
    assert entries(setting) == seen


def test_a_number_and_a_uuid_are_the_same_gpu(smi):
    smi(PLAIN)
    (number,) = visible_gpus({gpu_devices.VISIBLE: "2"})
    (uuid,) = visible_gpus({gpu_devices.VISIBLE: "GPU-bbbb"})
    assert number.uuid == uuid.uuid == UUIDS[2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("7", "'7' names no GPU of this machine, or more than one .there are: 0, 1, 2."),
        ("GPU-aaaa", "or more than one .there are: GPU-aaaa1111.*GPU-aaaa2222"),
        ("GPU-dddd", "'GPU-dddd' names no GPU"),
        ("first", "'first' names no GPU"),
        ("0,GPU-aaaa1", "names the GPU GPU-aaaa1 twice"),
    ],
)
def test_a_setting_that_cuda_would_pass_over_in_silence_is_refused(smi, setting, message):
    smi(PLAIN)
    with pytest.raises(UserError, match=f"^CUDA_VISIBLE_DEVICES.*{message}"):
        entries(setting)


def test_every_instance_of_a_divided_gpu_is_a_gpu_of_its_own(smi):
    smi(DIVIDED)
    full = "GPU-cccc2222-0000-0000-0000-000000000000"
    assert entries(None) == [*MIGS, full]
    assert entries(f"{MIGS[1]},MIG-1111") == [MIGS[1], "MIG-1111"]
    # A number of a divided GPU is its first instance.
    assert visible_gpus({gpu_devices.VISIBLE: "0"}) == (Gpu("0", MIGS[0]),)


def test_no_driver_is_no_gpu_whatever_is_set(smi, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_devices, "PROC", tmp_path / "nothing")
    assert entries(None) == entries("0,1") == []


def test_a_driver_that_does_not_answer_is_reported(smi, capsys):
    smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", code=9)
    assert entries(None) == [] and "no GPU is used" in (output := capsys.readouterr().err) and "couldn't" in output


def test_without_nvidia_smi_the_kernel_is_asked(smi, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_devices, "PROC", tmp_path)
    for bus, uuid in (("0000:81:00.0", UUIDS[1]), ("0000:01:00.0", UUIDS[0])):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\nBus Type: PCIe\n")
    assert [(gpu.entry, gpu.uuid) for gpu in visible_gpus({})] == [("0", UUIDS[0]), ("1", UUIDS[1])]


def test_jobs_on_this_machine_need_not_ask_again(smi):
    calls = smi(PLAIN)
    handed_on: dict[str, str] = {}
    gpu_devices.hand_on_listing(handed_on)
    gpu_devices._driver_listing.cache_clear()
    assert len(visible_gpus(handed_on)) == 3 and calls.read_text() == "-L\n"
    # The environment reaches jobs of a cluster too: what it says of another machine or job is not taken.
    smi("GPU 0: other (UUID: GPU-other)\n")
    assert visible_gpus({**handed_on, "SLURM_JOB_ID": "7"}) == (Gpu("0", "GPU-other"),)
    elsewhere = {gpu_devices.LISTING: "another boot \n" + PLAIN}
    assert visible_gpus(elsewhere) == (Gpu("0", "GPU-other"),)


def test_pretended_gpus_need_no_driver(smi):
    calls = smi(PLAIN)
    environment = {gpu_devices.PRETENDED: "4", gpu_devices.VISIBLE: "3,1"}
    assert [gpu.entry for gpu in visible_gpus(environment)] == ["3", "1"] and not calls.exists()
    assert visible_gpus({gpu_devices.PRETENDED: "0"}) == ()
    with pytest.raises(UserError, match="AQR_BENCH_GPUS: 'many' is no number of GPUs"):
        visible_gpus({gpu_devices.PRETENDED: "many"})


def test_limits_take_the_first_and_refuse_more_than_there_are():
    gpus = visible_gpus({gpu_devices.PRETENDED: "3", gpu_devices.VISIBLE: "2,0,1"})
    environment: dict[str, str] = {}
    show_only(limited(gpus, 2, "--gpus"), environment)
    assert environment == {gpu_devices.VISIBLE: "2,0"}
    show_only(limited(gpus, 0, "--gpus"), environment)
    assert environment == {gpu_devices.VISIBLE: ""}
    assert limited(gpus, None, "--gpus") == gpus
    with pytest.raises(UserError, match=r"^--gpus: 4 GPUs are asked for, 3 visible here"):
        limited(gpus, 4, "--gpus")
    with pytest.raises(UserError, match="none is visible here"):
        limited((), 1, "--gpus")


def test_listings_that_say_nothing_hold_no_gpu():
    assert parse_listing("") == parse_listing("No devices found.\n") == ()
    assert parse_listing(PLAIN)[2] == Card(2, UUIDS[2])
