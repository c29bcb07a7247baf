"""Everything that decides a training run, in one flat place."""

from dataclasses import asdict, dataclass, field
from typing import Literal

import yaml

from mg.data import TrainingClips
from mg.ranges import Dtype, check_at_least


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingClips):
    """A training run. Each key can stand in the YAML file and, after it, on the command line.

    Args:
        output_path: Run directory: checkpoints, metrics, TensorBoard, this recipe. Where a run is
            already, training goes on from its newest checkpoint.
        pretrained: Checkpoint to start from (an inflated image autoencoder, or a TAE).
        tae_config: Keys to change in the config of pretrained or, without one, in TAE_CONFIG.
        colour_start: Begin, when there is no pretrained, with weights that give blurred colours,
            which saves a short training most of its work.
        use_recompute: Compute activations twice instead of keeping them, to save memory.
        dtype: Number type of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore, and on PyTorch for torch.compile or, on a GPU,
            CUDA graphs; False for eager; by default graph mode on MindSpore (with use_recompute not
            on a CPU, where it takes more memory than that saves) and eager on PyTorch.
        jit_level: MindSpore's graph compilation level, O0 or O1.
        reconstruction_weight: Weight of the L1 loss.
        perceptual_weight: Weight of LPIPS; needs lpips_weights.
        lpips_weights: LPIPS weights, a .safetensors made by `mg convert-lpips`.
        kl_weight: Weight of the KL divergence of the latents.
        use_outlier_penalty_loss: Add the paper's outlier penalty loss.
        opl_weight: Weight of the outlier penalty loss, where used.
        disc_weight: Weight of the adversarial loss, times VQGAN's adaptive weight; 0 for none.
        disc_start: Updates before the discriminator joins.
        disc_ndf: Channels of the discriminator's first layer.
        disc_layers: Its convolutions of stride 2; frames must be at least 3 * 2^disc_layers pixels
            high and wide.
        train_steps: Updates of the weights.
        learning_rate: Learning rate after warm-up.
        scheduler: constant, or cosine (down to end_learning_rate at the last step).
        end_learning_rate: Learning rate at which the cosine ends.
        warmup_steps: Updates during which the learning rate rises linearly from 0.
        betas: Betas of the network's AdamW.
        optim_eps: Epsilon of the network's AdamW.
        weight_decay: Weight decay of AdamW, decoupled; the discriminator's too.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; 0 for never.
        gradient_accumulation_steps: Batches whose gradients are averaged into one update.
        ema_decay: Decay of the moving average of the weights, which is kept and validated beside
            them and is what the run gives in the end; 0 for none.
        max_skipped_updates: An update whose loss or gradient is not finite is skipped; the run
            stops when more than this many are skipped in a row.
        log_interval: Updates between two entries of the metrics.
        ckpt_save_steps: Updates between two checkpoints; 0 for the end only.
        keep_checkpoints: Newest checkpoints to keep; the best by validation is kept beside them.
        val_csv_path: CSV file of the videos to validate with; without one, there is no validation.
        val_video_folder: Their folder; by default video_folder.
        val_steps: Updates between two validations; 0 for those before the first and after the last
            update only.
        val_num_frames: Frames of each video to validate with; by default num_frames.
    """

    output_path: str
    pretrained: str | None = None
    tae_config: dict = field(default_factory=dict)
    colour_start: bool = False
    use_recompute: bool = False
    dtype: Dtype = "fp32"
    device_target: str = "auto"
    compile: bool | None = None
    jit_level: Literal["O0", "O1"] = "O0"
    reconstruction_weight: float = 1.0
    perceptual_weight: float = 1.0
    lpips_weights: str | None = None
    kl_weight: float = 1e-6
    use_outlier_penalty_loss: bool = False
    opl_weight: float = 1e5
    disc_weight: float = 0.0
    disc_start: int = 0
    disc_ndf: int = 64
    disc_layers: int = 3
    train_steps: int = 100_000
    learning_rate: float = 1e-5
    scheduler: Literal["constant", "cosine"] = "constant"
    end_learning_rate: float = 1e-7
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    optim_eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0
    max_skipped_updates: int = 10
    log_interval: int = 1
    ckpt_save_steps: int = 1000
    keep_checkpoints: int = 3
    val_csv_path: str | None = None
    val_video_folder: str | None = None
    val_steps: int = 1000
    val_num_frames: int | None = None

    def __post_init__(self):
        super().__post_init__()
        for least, keys in _AT_LEAST.items():
            check_at_least(vars(self), **{key: least for key in keys.split()})
        for key in ("learning_rate", "end_learning_rate"):
            if getattr(self, key) > 1:
                raise ValueError(f"{key} is {getattr(self, key)}, expected at most 1")
        if self.colour_start and self.pretrained is not None:
            raise ValueError("colour_start is True, but there is a pretrained to start from")
        if self.val_video_folder is not None and self.val_csv_path is None:
            raise ValueError("val_video_folder is given, but no val_csv_path, expected both")
        if not self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, expected a number in [0, 1)")
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}, expected two numbers in [0, 1)")
        if self.perceptual_weight > 0 and self.lpips_weights is None:
            raise ValueError(
                "perceptual_weight is positive but lpips_weights is not given: make them with "
                "`mg convert-lpips` (README, Prepare weights), or set "
                "perceptual_weight to 0"
            )

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss term by its name."""
        return {
            "reconstruction": self.reconstruction_weight,
            "perceptual": self.perceptual_weight,
            "kl": self.kl_weight,
            "outlier_penalty": self.opl_weight if self.use_outlier_penalty_loss else 0.0,
        }

    def to_yaml(self) -> str:
        """This recipe as a YAML file that `--config` reads."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def _plain(recipe: dict) -> dict:
    """A recipe's keys with values that YAML has."""
    return {**recipe, "betas": [*recipe["betas"]]}


def check_continues(before: dict, recipe: Recipe) -> dict[str, tuple]:
    """The keys in which `recipe` differs from that of the run it goes on with, each with the value
    before and now.

    Raises:
        ValueError: the run cannot go on with one of them, because its state would not fit or its
            videos and noise would be others than it has counted.
    """
    now = yaml.safe_load(recipe.to_yaml())
    # A run begun before there was a key had what is now its default.
    before = {**_plain({key: getattr(Recipe, key, None) for key in now}), **before}
    changes = {key: (before[key], now[key]) for key in now if before[key] != now[key]}
    changes.pop("output_path", None)  # the directory may have been moved
    broken = [key for key in _FIXED if key in changes]
    broken += [key for key in _SWITCHES if key in changes and not all(changes[key])]
    if broken:
        listed = "; ".join(f"{key} was {before[key]!r} and is {now[key]!r}" for key in broken)
        raise ValueError(
            f"{recipe.output_path}: its run cannot go on with this recipe: {listed}. Restore these "
            "keys, or choose another output_path"
        )
    return changes


_AT_LEAST = {
    1: "train_steps log_interval gradient_accumulation_steps disc_ndf disc_layers keep_checkpoints "
    "val_num_frames",
    0: "warmup_steps ckpt_save_steps learning_rate end_learning_rate weight_decay "
    "reconstruction_weight perceptual_weight kl_weight opl_weight max_grad_norm ema_decay "
    "max_skipped_updates val_steps disc_weight disc_start",
    1e-30: "optim_eps",  # with 0, a weight without a gradient becomes NaN
}
_FIXED = ("tae_config", "colour_start", "seed", "disc_ndf", "disc_layers")
_SWITCHES = ("ema_decay", "disc_weight", "pretrained")  # may change, but not from or to nothing
