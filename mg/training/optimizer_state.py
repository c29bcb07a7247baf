"""An optimiser's state as the arrays of a checkpoint, which have names."""

from collections.abc import Sequence

from mg import backend
from mg.arrays import Arrays
from mg.models.tae.weights import check_fit

_MOMENTS = ("first", "second")


def optimizer_state(optimizer: backend.AdamW, names: Sequence[str]) -> tuple[Arrays, int]:
    """Both moments of the parameters of these names, as `first.NAME` and `second.NAME`; and the
    number of steps so far."""
    steps, *moments = optimizer.state()
    arrays = {
        f"{kind}.{name}": array
        for kind, values in zip(_MOMENTS, moments, strict=True)
        for name, array in zip(names, values, strict=True)
    }
    return arrays, steps


def check_count(name: str, count: object) -> None:
    """Raise a ValueError unless what a checkpoint holds as a number of updates may be one."""
    if type(count) is not int or not 0 <= count < 1 << 53:
        raise ValueError(f"the checkpoint's {name} is {str(count)[:100]}")


def restore_optimizer(
    optimizer: backend.AdamW, parameters: dict, arrays: Arrays, steps: int, *, source: str
) -> None:
    """Go on from what `optimizer_state` gave of these parameters.

    Raises:
        ValueError: moments do not fit the parameters; `source` says where they come from.
    """
    moments = {f"{kind}.{name}": p for kind in _MOMENTS for name, p in parameters.items()}
    check_fit(moments, arrays, source=source)
    first, second = ([arrays[f"{kind}.{name}"] for name in parameters] for kind in _MOMENTS)
    optimizer.load_state(steps, first, second)
