"""A run: what it is made of, and the verbs of its loop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg import backend, ranks
from mg.data import Batch, TrainingBatches, training_batches
from mg.losses.lpips import LPIPS, lpips_for
from mg.losses.objective import Objective
from mg.models.tae.colour_start import colour_start
from mg.models.tae.config import check_rgb
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.adversary import Adversary
from mg.training.loss_scale import LossScale
from mg.training.optimizer_state import check_count
from mg.training.recipe import Recipe
from mg.training.run_directory import RunDirectory
from mg.training.schedule import is_due, learning_rate
from mg.training.step import TrainStep
from mg.training.validation import Stopped, Validation

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside the state of the training step.

    Attributes:
        step: updates done, skipped ones included.
        batches, items: batches drawn, and clips in them, of all processes: the place in the data.
        videos: fingerprint of the list of videos in which `items` counts.
        measured: fingerprint of the validation that `ceiling` and `best` belong to.
        ceiling: what `Validation.ceiling` gave before training.
        best: {"step", "psnr", "weights", "videos"} of the best validation.
        unvalidated: whether the run was stopped before the validation after `step` was done.
    """

    step: int = 0
    batches: int = 0
    items: int = 0
    videos: str = ""
    measured: str = ""
    ceiling: dict[str, float] | None = None
    best: dict | None = None
    unvalidated: bool = False

    def __post_init__(self):
        for name in ("step", "batches", "items"):
            check_count(name, getattr(self, name))
        if type(self.unvalidated) is not bool:
            raise ValueError(f"its unvalidated is {self.unvalidated!r}")
        best, ceiling = self.best, self.ceiling
        if best is not None and not (
            isinstance(best, dict)
            and _are_numbers([best.get("step"), best.get("psnr"), best.get("videos", 0)])
            and isinstance(best.get("weights"), str)
        ):
            raise ValueError(f"its best is {best!r}")
        if ceiling is not None and not (
            isinstance(ceiling, dict)
            and "ceiling/psnr" in ceiling
            and _are_numbers(ceiling.values())
        ):
            raise ValueError(f"its ceiling is {ceiling!r}")


def _are_numbers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int | float) for value in values)


class Trainer:
    """What a run is made of; `stack` ends it.

    Attributes:
        saved: the update after which the newest checkpoint was written, 0 without one.

    Raises:
        ValueError, OSError: something is wrong with the recipe, data, weights or directory. The
            directory is as it was then, but for `.lock`.
    """

    def __init__(self, recipe: Recipe, stack: contextlib.ExitStack):
        self.recipe = recipe
        self.run = stack.enter_context(contextlib.closing(RunDirectory(recipe)))
        start = self.run.read_start()
        with self._fitting():
            self._progress = Progress(**start.state["progress"]) if start else Progress()
        self.saved = self.step
        batches = stack.enter_context(_batches(recipe, self._progress))
        self._tae = _network(recipe, self.run.start_weights)
        lpips = lpips_for(recipe.lpips_weights, recipe.image_size)
        self._update = _train_step(recipe, self._tae, lpips)
        if start:
            with self._fitting():
                self._update.restore(start.arrays, start.state["update"])
        self._validation = _validation(recipe, self._tae, lpips, self._progress)
        self._broken: dict[str, str] = {}
        # No run where no video can be read.
        self._batches = (
            chain([next(batches)], batches) if self.step < recipe.train_steps else batches
        )
        self._reader, self._ahead = ThreadPoolExecutor(1), None
        stack.callback(self._reader.shutdown)  # before the batches are closed
        self.run.begin(self.step, self._progress.best)
        self._bar = stack.enter_context(
            tqdm(
                total=recipe.train_steps,
                initial=self.step,
                unit="step",
                disable=not ranks.is_first(),
            )
        )
        stack.enter_context(logging_redirect_tqdm())
        if self.step > recipe.train_steps:
            logger.warning("%d updates were done already, more than train_steps", self.step)
        if _compiles(recipe) and self.step < recipe.train_steps:
            logger.info(
                "the network is compiled for each size of clip when that first comes%s",
                "; on a CPU in minutes, which --compile False saves" * (backend.name == "torch"),
            )

    @contextlib.contextmanager
    def _fitting(self) -> Iterator[None]:
        """Where what a checkpoint holds is used, which others may have written."""
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            weights = self.run.start_weights
            raise ValueError(f"{weights and weights.parent}: does not fit: {error}") from None

    @property
    def step(self) -> int:
        """Updates done."""
        return self._progress.step

    @property
    def skipping(self) -> bool:
        """Whether the last update was skipped, since it was not finite."""
        return self._update.skipped_in_row > 0

    @property
    def diverged(self) -> bool:
        """Whether too many updates in a row were not finite."""
        return self._update.skipped_in_row > self.recipe.max_skipped_updates

    def update(self) -> None:
        """Do the next update, and log it."""
        began = time.perf_counter()
        batches = self._next_batches()
        data_seconds = time.perf_counter() - began
        rate = learning_rate(self.step, self.recipe)
        self._progress.step += 1
        skipped = self._update.skipped
        metrics = self._update(self.step, [batch.video for batch in batches], rate)
        seconds = time.perf_counter() - began
        self._bar.update()
        self._bar.set_postfix_str(
            f"loss {metrics['loss']:.4g}, PSNR {metrics['psnr']:.2f} dB, {seconds:.2f} s/step"
        )
        frames = sum(batch.video.shape[2] for batch in batches) // len(batches)
        metrics |= {"learning_rate": rate, "frames": frames}
        metrics |= {"seconds": seconds, "data_seconds": data_seconds}
        if self._update.skipped > skipped:
            names = [name for batch in batches for name in batch.names]
            names = [name for share in ranks.gather(names) for name in share]
            logger.warning(
                "update %d skipped, loss %s, gradient norm %s, videos: %s",
                self.step,
                metrics["loss"],
                metrics["grad_norm"],
                ", ".join(names),
            )
            self.run.log(self.step, {**metrics, "skipped_videos": names})
        elif is_due(self.step, self.recipe.log_interval, self.recipe.train_steps):
            self.run.log(self.step, metrics)

    def validate_start(self, stopped: Callable[[], bool]) -> None:
        """Measure what training starts from, and as an image autoencoder if it was one; or catch up
        on the validation before which the run was stopped."""
        if self.step == 0:
            self.validate(stopped)
        elif self._progress.unvalidated:
            self.validate(stopped)
            if not self._progress.unvalidated:
                self.save()

    def validate(self, stopped: Callable[[], bool]) -> bool:
        """Measure the network, unless the run is `stopped` meanwhile; says whether it is better
        than ever, and so to be saved."""
        if not self._validation:
            self._progress.unvalidated = False
            return False
        began = time.perf_counter()
        try:
            if self.step == 0 and self.recipe.pretrained:
                self._progress.ceiling = self._validation.ceiling(stopped)
            numbers, picture = self._validation(self._update, stopped)
        except Stopped:
            self._progress.unvalidated = True
            return False
        self._progress.unvalidated = False
        weights = "ema" if self._update.has_average else "tae"
        psnr = numbers["val_ema/psnr" if self._update.has_average else "val/psnr"]
        best = self._progress.best
        # Over fewer videos than before, since one cannot be read, a PSNR does not compare.
        reached = (numbers["val/videos"], psnr)
        before = (best.get("videos", reached[0]), best["psnr"]) if best else (0, -math.inf)
        improved = self.step > 0 and not self.skipping and not math.isnan(psnr) and reached > before
        if improved:
            path = self.run.weights_at(self.step, weights)
            best = {"step": self.step, "psnr": psnr, "weights": path, "videos": reached[0]}
            self._progress.best = best
        seconds = time.perf_counter() - began
        ceiling = self._progress.ceiling or {}
        self.run.log(self.step, {**numbers, **ceiling, "val/seconds": seconds})
        self.run.log_picture(self.step, picture)
        beside = f", frame-wise ceiling {ceiling['ceiling/psnr']:.2f} dB" if ceiling else ""
        logger.info("validation after %d updates: PSNR %.2f dB%s", self.step, psnr, beside)
        return improved

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved = self.step
        if ranks.is_first():
            arrays, numbers = self._update.state()
            state = {"progress": asdict(self._progress), "update": numbers}
            self.run.save(self.step, arrays, state, self._tae.config)

    def finish(self) -> None:
        """Write the weights to use, if training is done.

        Raises:
            ValueError: training stopped since it diverged, or ended with a skipped update.
        """
        if self._broken:
            names = ", ".join(sorted(self._broken))
            logger.warning("%d videos could not be used: %s", len(self._broken), names)
        done = self.step >= self.recipe.train_steps
        if self.diverged or (done and self.skipping):
            again = f"goes on from update {self.saved}" if self.saved else "begins anew"
            raise ValueError(
                f"stopped after update {self.step}: {self._update.skipped_in_row} in a row had a "
                f"loss or gradient that was not finite; {self.run.path}/metrics.jsonl names their "
                f"videos. The same command, perhaps with a lower --learning_rate, {again}"
            )
        if done and ranks.is_first():
            averaged = self._update.averaged() if self._update.has_average else None
            with averaged or contextlib.nullcontext():
                self._tae.save_checkpoint(self.run.weights)
            for older in {*self.run.path.glob("tae.*")} - {self.run.weights}:
                logger.warning("%s: left by an earlier end of this run, in the other format", older)

    def _read(self) -> Future[list[Batch]]:
        """The next update's batches, taken from the workers while the network computes."""
        count = self.recipe.gradient_accumulation_steps
        return self._reader.submit(lambda: list(islice(self._batches, count)))

    def _next_batches(self) -> list[Batch]:
        """The batches of an update; files that turn out broken are logged once each."""
        count = self.recipe.gradient_accumulation_steps
        batches = (self._ahead or self._read()).result()
        if self.step + 1 < self.recipe.train_steps:
            self._ahead = self._read()
        for batch in batches:
            for name, reason in batch.broken.items():
                if name not in self._broken:
                    self._broken[name] = reason
                    logger.warning("skipped %s: %s", name, reason)
        self._progress.batches += count
        self._progress.items += count * self.recipe.batch_size * backend.world_size()
        return batches


def _batches(recipe: Recipe, progress: Progress) -> TrainingBatches:
    batches = training_batches(
        recipe,
        rank=backend.rank(),
        world_size=backend.world_size(),
        start_step=progress.batches,
        start_item=progress.items,
    )
    if progress.videos and progress.videos != batches.fingerprint:
        logger.warning(
            "%s lists other videos than before: the run goes on, but not as it would have with the "
            "videos it has counted",
            recipe.csv_path,
        )
    progress.videos = batches.fingerprint
    return batches


def _validation(
    recipe: Recipe, tae: TemporalAutoencoder, lpips: LPIPS | None, progress: Progress
) -> Validation | None:
    if not recipe.val_csv_path:
        return None
    validation = Validation(recipe, tae, lpips)
    if progress.measured and progress.measured != validation.fingerprint:
        logger.warning(
            "the validation's videos or settings changed: the best score and ceiling so far are "
            "discarded"
        )
        progress.best = progress.ceiling = None
    progress.measured = validation.fingerprint
    return validation


def _compiles(recipe: Recipe) -> bool:
    return backend.compiles(recipe.compile, saves_memory=recipe.use_recompute)


def _network(recipe: Recipe, start: Path | None) -> TemporalAutoencoder:
    tae = TemporalAutoencoder(
        start or recipe.pretrained,
        recipe.tae_config or None,
        dtype=recipe.dtype,
        use_recompute=recipe.use_recompute,
        compile=_compiles(recipe),
        jit_level=recipe.jit_level,
        seed=recipe.seed,
    )
    if start is None and recipe.colour_start:
        parameters = backend.named_parameters(tae)
        arrays = {name: backend.to_numpy(value).copy() for name, value in parameters.items()}
        for name, array in colour_start(arrays, tae.config).items():
            backend.assign(parameters[name], array)
    check_rgb(tae.config, source=recipe.pretrained or "tae_config")
    if recipe.image_size % tae.compression:
        raise ValueError(
            f"image_size is {recipe.image_size}, expected a multiple of {tae.compression}"
        )
    return tae


def _train_step(recipe: Recipe, tae: TemporalAutoencoder, lpips: LPIPS | None) -> TrainStep:
    objective = Objective(recipe.loss_weights(), lpips)
    optimizer = backend.AdamW(
        list(backend.named_parameters(tae).values()),
        betas=recipe.betas,
        epsilon=recipe.optim_eps,
        weight_decay=recipe.weight_decay,
    )
    return TrainStep(
        tae,
        objective,
        optimizer,
        max_grad_norm=recipe.max_grad_norm,
        ema_decay=recipe.ema_decay,
        loss_scale=LossScale() if recipe.dtype == "fp16" else None,
        adversary=_adversary(recipe, tae, objective) if recipe.disc_weight else None,
        disc_start=recipe.disc_start,
        compile=_compiles(recipe),
        jit_level=recipe.jit_level,
        seed=recipe.seed,
    )


def _adversary(recipe: Recipe, tae: TemporalAutoencoder, objective: Objective) -> Adversary:
    adversary = Adversary(
        tae,
        objective,
        weight=recipe.disc_weight,
        ndf=recipe.disc_ndf,
        n_layers=recipe.disc_layers,
        # Without a loss scale of its own, it would lose small gradients in fp16.
        dtype="fp32" if recipe.dtype == "fp16" else recipe.dtype,
        weight_decay=recipe.weight_decay,
        compile=_compiles(recipe),
        jit_level=recipe.jit_level,
        seed=recipe.seed,
    )
    adversary.discriminator.check_size(recipe.image_size, recipe.image_size)
    return adversary
