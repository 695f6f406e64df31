"""Published checkpoints: read without running anything, matched with the official configs, and converted."""

from __future__ import annotations

import collections
import csv
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cmt_official import CLASSES, fill, generator, golden_inputs
from mmdet3d.registry import MODELS
from mmengine.logging import HistoryBuffer

from aqr_bench.cli import main as cli
from aqr_bench.cmt import published_weights
from aqr_bench.cmt.published_weights import PUBLISHED_CONFIGS, match, model_on_meta, published_config
from aqr_bench.cmt.sparse_kernels import mmcv_from_spconv2, spconv2_from_mmcv
from aqr_bench.engine.checkpoint import check_trained_classes, convert, read_checkpoint
from aqr_bench.engine.evaluate_checkpoint import strip_to_state_dict
from aqr_bench.engine.initial_weights import load_initial_weights
from aqr_bench.engine.weights import load_weights
from aqr_bench.errors import UserError
from aqr_bench.study.spec import Schedule

R50, VOV, LIDAR, CAMERA, MOAD, MOME = PUBLISHED_CONFIGS
HEAD = "pts_bbox_head."


def manifest(shared: Path, config: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Names, shapes and dtypes of an official model."""
    if config == MOAD:  # MoME without its router
        router = entries(shared, "mome.aqr_only")
        return {name: entry for name, entry in entries(shared, "mome.full").items() if name not in router}
    return entries(shared, f"{config}.full")


def entries(shared: Path, name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    with open(shared / "reference" / "official_state_dict" / f"{name}.csv") as file:
        return {
            row["name"]: (
                () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x"))),
                getattr(torch, row["dtype"]),
            )
            for row in csv.DictReader(file)
        }


def filled(entries: dict) -> collections.OrderedDict:
    """An official state dict filled by the golden rule: the head's tensors by their names inside the head."""
    state = collections.OrderedDict((n, torch.empty(shape, dtype=dtype)) for n, (shape, dtype) in entries.items())
    for inside in (True, False):
        part = {n.removeprefix(HEAD): t for n, t in state.items() if n.startswith(HEAD) is inside}
        fill(types.SimpleNamespace(state_dict=lambda part=part: part))
    return state


def blank(config: str) -> dict[str, torch.Tensor]:
    """Zeros for a config's model, each tensor one number in memory and on disk."""
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in model_on_meta(config).state_dict().items()}


@pytest.fixture
def vanished(monkeypatch):
    """Classes that can be written and, since their module is gone on reading, not be found."""
    module = types.ModuleType("vanished")
    for name, base in (("Note", object), ("Options", dict), ("Steps", list)):
        setattr(module, name, type(name, (base,), {"__module__": "vanished"}))
    monkeypatch.setitem(sys.modules, "vanished", module)
    return module


def official_file(path: Path, state, vanished, **settings) -> Path:
    """A checkpoint as mmcv 1.6 wrote it, with things in it that weights-only reading does not know."""
    note = vanished.Note()
    note.text = "kept by nobody"
    meta = dict(
        epoch=20, iter=70340, mmcv_version="1.6.0", mmdet_version="2.24.0", mmdet3d_version="1.0.0rc5", CLASSES=CLASSES,
        score=np.float64(0.679), grid=np.arange(3), note=note, options=vanished.Options(a=1), steps=vanished.Steps([1]),
        counts=collections.defaultdict(int, a=1), last=collections.deque([1, 2], 5), where=Path("work_dirs"),
    )  # fmt: skip
    optimizer = dict(state={0: dict(exp_avg=torch.zeros(1000), step=3)}, param_groups=[dict(lr=1e-4, params=[0])])
    torch.save(dict(meta=meta, state_dict=state, optimizer=optimizer), path, **settings)
    del sys.modules["vanished"]
    return path


# ---------------------------------------------------------------- the right config


@pytest.mark.parametrize("config", PUBLISHED_CONFIGS)
def test_inspect_names_the_config_of_an_official_file(shared, config, vanished, tmp_path, capsys):
    entries = manifest(shared, config)
    state = {n: torch.zeros((), dtype=dtype).expand(shape) for n, (shape, dtype) in entries.items()}
    path = official_file(tmp_path / "epoch_20.pth", state, vanished)
    allowed = set(torch.serialization.get_safe_globals())
    assert cli.main(["checkpoint", "inspect", str(path)]) == 0
    assert allowed <= set(torch.serialization.get_safe_globals())
    assert "placeholder" not in str(torch.serialization.get_safe_globals())
    output, warned = capsys.readouterr()
    assert output.endswith(f"config {config}: fits\n") and warned == ""
    assert f"sparse kernels: {'none' if config == CAMERA else 'mmcv'}\n" in output
    assert f"weights: {len(entries)} tensors" in output and "optimiser state: 0.0 MB" in output
    assert "mmcv 1.6.0, mmdet 2.24.0, mmdet3d 1.0.0rc5, epoch 20, iter 70340" in output
    replaced = output.partition("placeholders: ")[2].partition("\n")[0].split(", ")
    assert {"vanished.Note", "vanished.Options", "vanished.Steps", "collections.deque", "numpy.dtype"} <= set(replaced)


def test_official_r50_weights_arrive_in_the_model_and_give_the_official_outputs(shared, vanished, tmp_path, capsys):
    official = filled(manifest(shared, R50))
    path = official_file(tmp_path / "r50.pth", official, vanished)
    assert cli.main(["checkpoint", "convert", str(path)]) == 0
    out = tmp_path / "r50.aqr.pth"
    assert capsys.readouterr().out == (f"converted {path} -> {out}: fits {R50}, nothing missing, nothing unexpected\n")
    content = torch.load(out, weights_only=True)
    assert set(content) == {"state_dict", "meta"} and content["meta"]["config"] == R50
    assert content["meta"]["source"] == "r50.pth" and content["meta"]["classes"] == CLASSES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r50.aqr.pth", "r50.pth"]

    config = published_config(R50).model
    model = MODELS.build(config)
    assert list(content["state_dict"]) == list(model.state_dict())
    load_weights(model, out)
    for name, tensor in model.state_dict().items():
        kernel = official[name]
        assert torch.equal(tensor, spconv2_from_mmcv(kernel) if kernel.dim() == 5 else kernel), name

    # The golden outputs were made with 50 queries; the first 50 of 900 reference points are the same draw.
    name = "reference_points.weight"
    state = model.pts_bbox_head.state_dict()
    state[name] = state[name][:50]
    assert torch.equal(state[name], torch.rand(50, 3, generator=generator(name)))
    grid = dict(grid_size=[128, 128, 40])
    head = dict(config.pts_bbox_head, num_query=50)
    head.update({k: dict(config[k].pts, **grid) for k in ("train_cfg", "test_cfg")})
    head = MODELS.build(head).eval()
    head.load_state_dict(state, strict=True)
    x, x_img = golden_inputs()
    with np.load(shared / "reference" / "golden" / "cmt_head_voxel0100_small.npz") as golden, torch.no_grad():
        metas = [dict(lidar2img=m, pad_shape=[(128, 320, 3)] * 6) for m in golden["lidar2img"]]
        outputs = head([x], [x_img], metas)[0][0]
        for key in ("center", "height", "dim", "rot", "vel", "cls_logits"):
            atol = 1e-4 if key in ("center", "height") else 2e-5
            np.testing.assert_allclose(outputs[key], golden[f"out.{key}"], atol=atol, rtol=0, err_msg=key)


def test_made_up_weights_of_mome_arrive_in_the_model(vanished, tmp_path, monkeypatch, capsys):
    """With small branches: a file as the official code writes it, with mmcv's kernels, is converted and loaded."""
    config, name = published_config(MOME), MOME
    config.model.img_backbone = dict(
        type="ResNet", depth=18, base_channels=8, num_stages=4, out_indices=(2, 3), norm_cfg=dict(type="BN")
    )
    config.model.img_neck.in_channels = [32, 64]
    config.model.pts_backbone.layer_nums = [1, 1]
    config.model.pts_bbox_head.transformer.decoder.num_layers = 2
    monkeypatch.setattr(published_weights, "PUBLISHED_CONFIGS", (name,))
    monkeypatch.setattr(published_weights, "published_config", lambda _: config)
    expected = model_on_meta(name).state_dict()
    monkeypatch.setattr(published_weights, "_expected", lambda _: expected)
    official = filled({n: (tuple(t.shape), t.dtype) for n, t in expected.items()})
    in_file = {n: mmcv_from_spconv2(t) if t.dim() == 5 else t for n, t in official.items()}
    path, out = official_file(tmp_path / "in.pth", in_file, vanished), tmp_path / "in.aqr.pth"
    assert cli.main(["checkpoint", "inspect", str(path)]) == 0
    assert cli.main(["checkpoint", "convert", str(path)]) == 0
    assert f"config {name}: fits\n" in (text := capsys.readouterr().out) and f"fits {name}, nothing missing" in text
    model = MODELS.build(config.model)
    load_weights(model, out)
    assert list(model.state_dict()) == list(official)
    assert all(torch.equal(t, official[n]) for n, t in model.state_dict().items())


# ---------------------------------------------------------------- layouts, formats and dtypes


def test_both_sparse_layouts_and_a_mixture_give_the_same_kernels(tmp_path):
    ours = blank(LIDAR)
    kernels = {n: torch.randn(t.shape, generator=generator(n)) for n, t in ours.items() if t.dim() == 5}
    mmcv = {n: mmcv_from_spconv2(k).contiguous() for n, k in kernels.items()}
    mixed = {n: kernels[n] if i % 2 else k for i, (n, k) in enumerate(mmcv.items())}
    for layout, values in (("spconv 2", kernels), ("mmcv", mmcv), ("mixed", mixed)):
        path, out = tmp_path / "in.pth", tmp_path / f"{layout}.pth"
        torch.save(dict(state_dict={**ours, **values}), path)
        assert convert(path, out).layout == layout
        written = torch.load(out, weights_only=True)["state_dict"]
        assert all(torch.equal(written[n], k) for n, k in kernels.items())
        assert convert(out, tmp_path / "again.pth", force=True).layout == "spconv 2"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_old_format_bare_wrapped_and_half_precision_are_read(legacy, vanished, tmp_path, capsys):
    state = {f"module.{n}": t.half() if t.is_floating_point() else t for n, t in blank(LIDAR).items()}
    path = official_file(tmp_path / "a.pth", state, vanished, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == ("legacy" if legacy else "zip") and match(checkpoint.state)[0].fits
    assert checkpoint.meta["epoch"] == 20 and checkpoint.optimiser_bytes == 4000
    assert "vanished.Note" in checkpoint.placeholders and "score" not in checkpoint.meta
    assert cli.main(["checkpoint", "convert", str(path), "--config", LIDAR]) == 0
    halves = sum(t.is_floating_point() for t in state.values())
    assert f", nothing unexpected, {halves} tensors were float16\n" in capsys.readouterr().out
    written = torch.load(tmp_path / "a.aqr.pth", weights_only=True)["state_dict"]
    assert {t.dtype for t in written.values()} == {torch.float32, torch.int64}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert match(read_checkpoint(path).state)[0].config == LIDAR  # a bare state dict


def test_a_checkpoint_of_mmengine_and_a_zip_packed_anew_are_read(tmp_path):
    buffer = HistoryBuffer([1.0], [1])
    endless = [torch.zeros(5)]
    endless.append(endless)
    content = dict(
        meta=dict(epoch=3, dataset_meta=dict(classes=CLASSES), mmengine_version="0.10.7", cfg="a = 1"),
        state_dict={"a": torch.arange(100.0)}, message_hub=dict(log_scalars=dict(loss=buffer)), optimizer=endless,
        param_schedulers=[],
    )  # fmt: skip
    path, packed = tmp_path / "a.pth", tmp_path / "packed.pth"
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.meta["classes"] == tuple(CLASSES) and checkpoint.others == ("message_hub", "param_schedulers")
    assert checkpoint.optimiser_bytes == 20
    assert {"builtins.getattr", "mmengine.logging.history_buffer.HistoryBuffer"} <= set(checkpoint.placeholders)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert torch.equal(read_checkpoint(packed).state["a"], torch.arange(100.0))


def test_classes_in_another_order_than_the_checkpoint_has_are_refused(tmp_path):
    """mmengine's key and mmcv's; a file that says nothing of classes is taken."""
    path = tmp_path / "a.pth"
    for meta in ({"dataset_meta": {"classes": CLASSES}}, {"CLASSES": tuple(CLASSES)}, {"epoch": 3}):
        torch.save(dict(state_dict={"a": torch.zeros(1)}, meta=meta), path)
        checkpoint = read_checkpoint(path)
        check_trained_classes(checkpoint, CLASSES)
        if "epoch" in meta:
            check_trained_classes(checkpoint, CLASSES[::-1])
            continue
        with pytest.raises(UserError) as caught:
            check_trained_classes(checkpoint, [CLASSES[0], *CLASSES[:0:-1]])
        text = str(caught.value)
        assert f"label 1 is '{CLASSES[1]}' in the checkpoint, '{CLASSES[-1]}' in the config" in text
        assert str(path) in text and f"those of the checkpoint: {', '.join(CLASSES)}." in text
        with pytest.raises(UserError, match="it has 10 classes, the config 3"):
            check_trained_classes(checkpoint, CLASSES[:3])
        with pytest.raises(UserError, match="was trained on other classes"):
            strip_to_state_dict(path, tmp_path / "b.pth", CLASSES[:3])
        with pytest.raises(RuntimeError, match="was trained on other classes"):  # a failed record
            load_initial_weights(path, Schedule(0, init="published"), "mine.py", tmp_path, CLASSES[:3])
        assert list(tmp_path.iterdir()) == [path]


def test_what_speaks_against_fitting_weights_is_said(tmp_path, capsys):
    path = tmp_path / "a.pth"
    config = "point_cloud_range = [-54.0]\nvoxel_size = [0.1, 0.1, 0.2]\n"
    meta = dict(mmdet3d_version="0.17.1", CLASSES=sorted(CLASSES), config=config)
    torch.save(dict(state_dict=blank(LIDAR), meta=meta), path)
    assert cli.main(["checkpoint", "inspect", str(path)]) == 0
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == 3 and "mmdet3d 0.17.1, before 1.0.0rc0" in warned
    assert "classes are not those" in warned and f"voxels of 0.1, 0.1, 0.2 m, {LIDAR} of 0.075, 0.075, 0.2 m" in warned


# ---------------------------------------------------------------- what does not fit


def test_a_renamed_key_and_a_wrong_shape_are_named(tmp_path, capsys):
    state = blank(LIDAR)
    state["pts_neck.renamed"] = state.pop("pts_neck.deblocks.0.0.weight")
    state["pts_bbox_head.reference_points.weight"] = torch.zeros(300, 3)
    path = tmp_path / "a.pth"
    torch.save(dict(state_dict=state), path)
    for command in ("inspect", "convert"):
        assert cli.main(["checkpoint", command, str(path)]) == 2
        output, wrong = capsys.readouterr()
        assert wrong.startswith(f"error: {path} fits no published config, closest {LIDAR}: 1 names missing, 1 unexp")
        assert "missing: pts_neck.deblocks.0.0.weight; unexpected: pts_neck.renamed; shape: " in wrong
        assert "pts_bbox_head.reference_points.weight 300x3 instead of 900x3" in wrong and wrong.count("\n") == 1
        assert (
            (output.count("\nconfig ") == len(PUBLISHED_CONFIGS) and f"\nconfig {R50}: " in output)
            if command == "inspect"
            else output == ""
        )
    assert list(tmp_path.iterdir()) == [path]


def test_another_config_or_an_unknown_one_is_refused(tmp_path):
    path, out = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(dict(state_dict=blank(LIDAR)), path)
    with pytest.raises(UserError, match=f"does not fit {CAMERA}: .*missing: pts_bbox_head.rv_embedding"):
        convert(path, out, CAMERA)
    with pytest.raises(UserError, match=f"--config: 'cmt_lidar' is no published config; did you mean '{LIDAR}'"):
        convert(path, out, "cmt_lidar")
    assert not out.exists()


def test_nothing_is_overwritten_unasked(tmp_path):
    path, out = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(dict(state_dict=blank(LIDAR)), path)
    before = path.read_bytes()
    out.write_text("precious")
    with pytest.raises(UserError, match=r"b\.pth exists\. Give another name, or --force"):
        convert(path, out)
    with pytest.raises(UserError, match="is the file to convert"):
        convert(path, tmp_path / "." / "a.pth", force=True)
    with pytest.raises(UserError, match=r"folder .* does not exist"):
        convert(path, tmp_path / "no" / "b.pth")
    assert path.read_bytes() == before and out.read_text() == "precious"
    assert convert(path, out, force=True).config == LIDAR
    assert set(torch.load(out, weights_only=True)) == {"state_dict", "meta"}


# ---------------------------------------------------------------- hostile and damaged files


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.system, subprocess.getoutput, eval, exec])
def test_a_file_that_would_run_something_is_refused(legacy, function, tmp_path, capsys):
    marker, path = tmp_path / "marker", tmp_path / "a.pth"
    code = f"open({str(marker)!r}, 'w')" if function in (eval, exec) else f"touch '{marker}'"
    attack = Attack(function, code)
    for content in (dict(state_dict={"a": torch.zeros(1)}, meta=attack), attack):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        assert cli.main(["checkpoint", "inspect", str(path)]) == 2
        wrong = capsys.readouterr().err
        assert "asks for " in wrong and f".{function.__name__}, which no checkpoint needs" in wrong
        assert wrong.count("\n") == 1 and not marker.exists()
    torch.load(path, weights_only=False)  # the file is a real one: unguarded, it does run
    assert marker.exists()


def test_unreadable_files_are_said_to_be(tmp_path, capsys):
    full, old = tmp_path / "whole.pth", tmp_path / "old.pth"
    state = {"a": torch.zeros(1000)}
    torch.save(state, full)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    files = {
        "cut.pth": full.read_bytes()[:2000],
        "old_cut.pth": old.read_bytes()[:-2000],
        "empty.pth": b"",
        "text.pth": b"<!DOCTYPE html>\n<html>404</html>\n",
        "random.pth": np.random.default_rng(0).bytes(5000),
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert cli.main(["checkpoint", "inspect", str(path)]) == 2
        wrong = capsys.readouterr().err
        assert wrong.startswith(f"error: {path} cannot be read as a checkpoint (") and wrong.count("\n") == 1
        assert "weights_only" not in wrong and "trust" not in wrong
    assert cli.main(["checkpoint", "convert", str(tmp_path / "none.pth")]) == 2
    assert "none.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list"),
        ({"state_dict": {}}, "state dict is empty"),
        ({"state_dict": [1]}, "state dict is not a dict"),
        ({"state_dict": {"a\x1b[2J": "text"}}, r"entry 'a\?\[2J' of its weights is a str"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "has 'a' twice"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_a_newer_pickle_protocol_is_refused_in_one_line(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(UserError, match="Unsupported operand 149"):
        read_checkpoint(tmp_path / "a.pth")
