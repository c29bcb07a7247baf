"""The training loop."""

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg import backend
from mg.data import TrainingBatches, training_batches
from mg.losses.lpips import LPIPS
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.recipe import Recipe
from mg.training.run_directory import RunDirectory
from mg.training.schedule import is_due, learning_rate
from mg.training.step import TrainStep

logger = logging.getLogger(__name__)


def train(recipe: Recipe) -> RunDirectory:
    """Train by `recipe`; gives the directory of the run, in which the checkpoint lies.

    Raises:
        ValueError, OSError: what is wrong with the recipe, data, weights, device or directory.
    """
    backend.set_device(recipe.device_target)
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(_batches(recipe))
        tae = TemporalAutoencoder(
            recipe.pretrained,
            recipe.tae_config or None,
            dtype=recipe.dtype,
            use_recompute=recipe.use_recompute,
            seed=recipe.seed,
        )
        if recipe.image_size % tae.compression:
            raise ValueError(
                f"image_size is {recipe.image_size}, expected a multiple of {tae.compression}"
            )
        update = _train_step(recipe, tae)
        batches = itertools.chain([next(batches)], batches)  # no run where no video can be read
        run = stack.enter_context(contextlib.closing(RunDirectory(recipe)))
        broken: dict[str, str] = {}
        progress = stack.enter_context(tqdm(range(1, recipe.train_steps + 1), unit="step"))
        stack.enter_context(logging_redirect_tqdm())
        for step in progress:
            began = time.perf_counter()
            videos = _next_videos(batches, recipe.gradient_accumulation_steps, broken)
            rate = learning_rate(step - 1, recipe)
            metrics = update(step, videos, rate)
            seconds = time.perf_counter() - began
            progress.set_postfix_str(
                f"loss {metrics['loss']:.4g}, PSNR {metrics['psnr']:.2f} dB, {seconds:.2f} s/step"
            )
            if is_due(step, recipe.log_interval, recipe.train_steps):
                frames = int(np.mean([video.shape[2] for video in videos]))
                more = {"learning_rate": rate, "frames": frames, "seconds": seconds}
                run.log(step, {**metrics, **more})
            if is_due(step, recipe.ckpt_save_steps, recipe.train_steps):
                run.save(tae)
    if broken:
        logger.warning("%d videos could not be used: %s", len(broken), ", ".join(sorted(broken)))
    return run


def _batches(recipe: Recipe) -> TrainingBatches:
    return training_batches(
        recipe.csv_path,
        recipe.video_folder,
        video_column=recipe.video_column,
        batch_size=recipe.batch_size,
        num_frames=recipe.num_frames,
        image_size=recipe.image_size,
        sample_stride=recipe.sample_stride,
        random_crop=recipe.random_crop,
        random_flip=recipe.random_flip,
        mixed_strategy=recipe.mixed_strategy,
        mixed_image_ratio=recipe.mixed_image_ratio,
        num_workers=recipe.num_workers,
        seed=recipe.seed,
    )


def _train_step(recipe: Recipe, tae: TemporalAutoencoder) -> TrainStep:
    lpips = None if recipe.lpips_weights is None else LPIPS(recipe.lpips_weights)
    optimizer = backend.AdamW(
        list(backend.named_parameters(tae).values()),
        betas=recipe.betas,
        epsilon=recipe.optim_eps,
        weight_decay=recipe.weight_decay,
    )
    return TrainStep(
        tae,
        Objective(recipe.loss_weights(), lpips),
        optimizer,
        max_grad_norm=recipe.max_grad_norm,
        compile=recipe.compile,
        jit_level=recipe.jit_level,
        seed=recipe.seed,
    )


def _next_videos(batches: Iterator, count: int, broken: dict[str, str]) -> list[np.ndarray]:
    """The next `count` batches' videos; files that turn out broken are logged once each."""
    videos = []
    for batch in itertools.islice(batches, count):
        for name, reason in batch.broken.items():
            if name not in broken:
                broken[name] = reason
                logger.warning("skipped %s: %s", name, reason)
        videos.append(batch.video)
    return videos
