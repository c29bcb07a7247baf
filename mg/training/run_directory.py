"""What a run leaves: checkpoint, metrics, recipe."""

import json
import logging
from pathlib import Path

from mg import backend
from mg.files import atomic_path
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.recipe import Recipe

logger = logging.getLogger(__name__)


class RunDirectory:
    """`output_path` of a run: `recipe.yaml`, `metrics.jsonl`, `tensorboard/` and the checkpoint,
    `tae.ckpt` (MindSpore) or `tae.safetensors` (PyTorch).

    Raises:
        ValueError: there is a run already.
        OSError: the directory cannot be made or written.
    """

    def __init__(self, recipe: Recipe):
        # Here, after the framework: MindSpore cannot be imported once protobuf is, which this does.
        from tensorboardX import SummaryWriter

        self.path = Path(recipe.output_path)
        self.checkpoint = self.path / f"tae{backend.checkpoint_suffix}"
        if (self.path / "recipe.yaml").exists():
            raise ValueError(f"{self.path}: holds a run already, expected a new output_path")
        with atomic_path(self.path / "recipe.yaml") as temporary:
            temporary.write_text(recipe.to_yaml())
        self._metrics = (self.path / "metrics.jsonl").open("a", buffering=1)
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append the numbers of an update to `metrics.jsonl` and to TensorBoard."""
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)

    def save(self, tae: TemporalAutoencoder) -> None:
        """Write the checkpoint over the one before."""
        tae.save_checkpoint(self.checkpoint)
        logger.info("wrote %s", self.checkpoint)

    def close(self) -> None:
        """Finish the files."""
        self._metrics.close()
        self._tensorboard.close()
