"""The network that a command was asked for."""

import logging
from typing import Protocol

from mg import backend, ranks
from mg.models.tae.config import check_rgb
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import PUBLISHED

logger = logging.getLogger(__name__)


class NetworkSettings(Protocol):
    """What settings of a command say of the network."""

    @property
    def ckpt_path(self) -> str: ...
    @property
    def use_tile(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device_target(self) -> str: ...
    @property
    def compile(self) -> bool | None: ...


def open_network(settings: NetworkSettings, *, in_parallel: bool = False) -> TemporalAutoencoder:
    """The network, on its device.

    Args:
        in_parallel: join the other processes of this run first, if a launcher started several.

    Raises:
        ValueError, OSError: no such device, or a checkpoint that cannot be used; the processes do
            not find each other.
    """
    backend.set_device(settings.device_target, exact=settings.dtype == "fp32")
    if in_parallel:
        ranks.join()
    if settings.ckpt_path in PUBLISHED:
        logger.info("using the bundled %s weights (docs/tae_small.md)", settings.ckpt_path)
    tae = TemporalAutoencoder(
        settings.ckpt_path,
        use_tile=settings.use_tile,
        dtype=settings.dtype,
        compile=settings.compile,
    )
    check_rgb(tae.config, source=settings.ckpt_path)
    return tae
