"""Lens masks: the mixing formula, the procedural masks, a folder of the user's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench.corruptions import FrameError, corrupt, get_corruption
from aqr_bench.corruptions.image.lens_occlusion import MASKS, file_mask, mask_files, occlude, procedural_mask

NAME = "nuscenes_r.lens_occlusion_procedural"


def flat(*bgr, size=(4, 6)):
    return np.full((*size, 3), bgr, np.uint8)


def test_out_is_alpha_image_plus_the_rest_of_the_mask():
    # alpha = (mask / 255)^3: 0 -> 0; 128 -> 0.1265, so 0.1265 * 200 + 0.8735 * 128 = 137.1; 255 -> 1.
    out = occlude(flat(200, 200, 200), flat(0, 128, 255))
    assert np.array_equal(out, flat(0, 137, 200)) and out.dtype == np.uint8
    image = make_frame(size=(30, 40)).views[0].image
    assert np.array_equal(occlude(image, flat(255, 255, 255)), image)
    mask = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    alpha = (mask / 255) ** 3
    assert np.abs(occlude(image, mask) - (alpha * image + (1 - alpha) * mask)).max() <= 0.51


def test_masks_are_resized_to_the_image():
    mask = np.concatenate([flat(0, 0, 0, size=(8, 4)), flat(255, 255, 255, size=(8, 4))], 1)
    out = occlude(flat(90, 90, 90, size=(16, 100)), mask)
    assert not out[:, :30].any() and (out[:, 70:] == 90).all()
    assert occlude(flat(9, 9, 9, size=(1, 1)), mask).shape == (1, 1, 3)


def test_sixteen_fixed_masks_hide_some_of_the_image_and_leave_most():
    masks = [procedural_mask(number) for number in range(MASKS)]
    assert len({mask.tobytes() for mask in masks}) == MASKS == 16
    hidden = [float((mask.max(2) < 128).mean()) for mask in masks]
    clear = [float((mask.min(2) > 230).mean()) for mask in masks]
    assert min(hidden) > 0.02 and max(hidden) < 0.35 and min(clear) > 0.4
    again = procedural_mask.__wrapped__(3)
    assert np.array_equal(again, masks[3]) and not again.flags.writeable


def test_every_camera_gets_one_of_the_masks_and_samples_differ():
    white = flat(255, 255, 255, size=(270, 480))
    known = {occlude(white, procedural_mask(number)).tobytes(): number for number in range(MASKS)}
    used = []
    for seed in range(8):
        frame = make_frame(seed, points=0, size=(270, 480)).with_images(lambda view: white)
        used.append([known[view.image.tobytes()] for view in corrupt(get_corruption(NAME), frame).views])
    assert len(set(map(tuple, used))) == 8 and len(set(used[0])) > 1
    assert len({number for row in used for number in row}) > 10


# ---------------------------------------------------------------- a folder of masks


@pytest.fixture
def folder(tmp_path):
    """Two masks, 20 x 40: one black at its right quarter, one all white; and a file that is none."""
    mask = flat(255, 255, 255, size=(20, 40))
    cv2.imwrite(str(tmp_path / "b.jpg"), mask)
    mask[:, 30:] = 0
    cv2.imwrite(str(tmp_path / "a.JPG"), mask)
    (tmp_path / "readme.txt").write_text("masks")
    return tmp_path


def test_the_users_masks_go_by_name_and_are_turned_by_90_degrees(folder):
    files = mask_files(str(folder), "tok")
    assert [file.name for file in files] == ["a.JPG", "b.jpg"]
    # Counter-clockwise: what was at the right is at the top.
    mask = file_mask(files[0], "tok")
    assert mask.shape == (40, 20, 3) and mask[:8].max() < 30 and mask[12:].min() > 225
    out = occlude(flat(100, 100, 100, size=(80, 60)), mask)
    assert out[:15].max() < 40 and (np.abs(out[25:].astype(int) - 100) < 8).all()


def test_a_folder_replaces_the_procedural_masks(folder):
    condition = get_corruption(NAME, options={"masks": str(folder)})
    tops = []
    for seed in range(6):
        frame = make_frame(seed, points=0, size=(80, 60)).with_images(lambda view: flat(100, 100, 100, size=(80, 60)))
        tops += [int(view.image[0, 0, 0]) for view in corrupt(condition, frame).views]
    dark, clear = sum(top < 40 for top in tops), sum(top > 90 for top in tops)
    assert dark + clear == 36 and min(dark, clear) > 6


def test_a_folder_without_masks_or_with_a_broken_one_is_named(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(FrameError, match=f"sample token0: the folder of lens masks {missing} is no folder"):
        corrupt(get_corruption(NAME, options={"masks": str(missing)}), make_frame())
    with pytest.raises(FrameError, match=r"token0: the folder .* has no .jpg or .png file"):
        corrupt(get_corruption(NAME, options={"masks": str(tmp_path)}), make_frame())
    (tmp_path / "mask_1.jpg").write_bytes(b"no image")
    with pytest.raises(FrameError, match=r"token0: lens mask .*mask_1.jpg cannot be decoded"):
        corrupt(get_corruption(NAME, options={"masks": str(tmp_path)}), make_frame())
