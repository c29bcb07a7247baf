import warnings

import numpy as np
import pytest
from cli.support import waves
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mg.evaluation.metrics import EXACT_PSNR, psnr, ssim

pytestmark = pytest.mark.once


def noisy(frames, rng, size=20):
    noise = rng.integers(-size, size + 1, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def test_psnr_and_ssim_are_scikit_images_frame_by_frame(rng):
    frames = waves(0, 5, 24, 32)
    other = noisy(frames, rng)
    pairs = list(zip(frames, other, strict=True))
    assert psnr(frames, other) == pytest.approx([peak_signal_noise_ratio(a, b) for a, b in pairs])
    assert ssim(frames, other) == pytest.approx(
        [structural_similarity(a, b, channel_axis=2) for a, b in pairs]
    )


def test_ssim_of_frames_smaller_than_its_window_is_refused():
    frames = waves(0, 1, 6, 32)
    with pytest.raises(ValueError, match="32x6 pixels, SSIM needs at least 7x7"):
        ssim(frames, frames)


def test_psnr_is_ten_times_the_logarithm_of_the_error(rng):
    frames = waves(0, 1, 16, 16)
    other = noisy(frames, rng)
    error = np.square(frames.astype(float) - other).mean()
    assert psnr(frames, other)[0] == pytest.approx(10 * np.log10(255**2 / error))


def test_frames_without_error_have_the_cap_in_silence():
    frames = waves(0, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert psnr(frames, frames).tolist() == [EXACT_PSNR] * 3
    assert ssim(frames, frames) == pytest.approx([1, 1, 1])


def test_one_level_off_in_one_pixel_stays_below_the_cap():
    frames = np.full((1, 64, 64, 3), 100, np.uint8)
    other = frames.copy()
    other[0, 3, 5, 1] = 101
    assert 80 < psnr(frames, other)[0] < EXACT_PSNR


def test_lengths_that_differ_are_an_error():
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"shape \(3, .*\) beside \(2, "):
            metric(waves(0, 3), waves(0, 2))


@pytest.mark.parametrize(
    "change",
    [lambda x: x / np.float32(255), lambda x: x[0], lambda x: x.transpose(0, 3, 1, 2)],
    ids=["floats", "a frame", "channels first"],
)
def test_anything_but_frames_of_8_bits_is_an_error(change):
    frames = waves(0, 2, 16, 16)
    for metric in (psnr, ssim):
        for pair in ((change(frames), frames), (frames, change(frames))):
            with pytest.raises(ValueError, match=r"expected uint8 \(t h w 3\)"):
                metric(*pair)
