"""Decode a latent file to a video."""

import logging
from fractions import Fraction

from mg import backend
from mg.data import check_output, is_image, open_writer
from mg.evaluation.network import open_network
from mg.files import check_apart, sha256
from mg.inference.network import decoded, warn_of_memory
from mg.inference.progress import frame_progress
from mg.inference.settings import Decoding
from mg.interruption import uninterrupted
from mg.latents.file import LatentFile, Video
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import weights_file

logger = logging.getLogger(__name__)


def decode(settings: Decoding) -> Video:
    """Decode a latent file to a video of its size, frames and times, in constant memory; gives what
    video it is.

    Raises:
        ValueError, OSError: something is wrong with settings, latents, checkpoint or output, or the
            latents are of another config than the checkpoint; nothing is written then.
    """
    check_apart([settings.target], [settings.source, weights_file(settings.ckpt_path)])
    check_output(settings.target, settings.codec)
    latents = LatentFile(settings.source)
    video = latents.video
    if video.frames > 1 and is_image(settings.target):
        raise ValueError(
            f"{settings.target}: an image holds one frame, these latents {video.frames}"
        )
    tae = open_network(settings)
    _check_config(latents, tae, settings.ckpt_path)
    warn_of_memory(settings.source, (video.height, video.width), tae)
    chunks = latents.read(max(1, settings.chunk_frames // tae.compression))
    with (
        frame_progress(video.frames) as progress,
        open_writer(settings.target, video.fps, crf=settings.crf, codec=settings.codec) as writer,
        backend.no_grad(),
    ):
        for frames in decoded(tae, chunks, (video.height, video.width), video.frames):
            with uninterrupted():
                for image in frames:
                    writer.write(image, _time(video, writer.count))
            progress.update(len(frames))
    return video


def _check_config(latents: LatentFile, tae: TemporalAutoencoder, ckpt_path: str) -> None:
    theirs, ours = latents.encoding.tae_config, tae.config
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise ValueError(
                f"{latents.path}: latents of another network: their {key} is {theirs.get(key)!r}, "
                f"that of {ckpt_path} is {ours.get(key)!r}"
            )
    if latents.encoding.checkpoint_sha256 != sha256(weights_file(ckpt_path)):
        logger.warning("%s: encoded by another checkpoint than %s", latents.path, ckpt_path)


def _time(video: Video, number: int) -> Fraction:
    """When a frame is shown, in seconds from the first."""
    if video.times is None:
        return number / video.fps
    return Fraction(float(video.times[number]))
