"""The one room that computes by a framework: this network's operations, on MindSpore or PyTorch.

`MG_BACKEND=mindspore|torch` chooses, once, at import; unset means the one that the program has
imported, or where that is none or both, MindSpore if it is installed, else PyTorch. Both files
export the same names with the same signatures (`mg/backend/torch.py` has the documentation of
each), and whatever the two frameworks' tensors share already (arithmetic, `reshape`, `permute`,
`mean`, `abs`, `exp`, slices) is used directly.
"""

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mg.backend.waiting import rest_while_waiting


def _choose() -> str:
    """The framework to use: what MG_BACKEND asks for, else the only one that the program has
    imported, else the first that is installed."""
    requested = os.environ.get("MG_BACKEND")
    if requested:
        if requested not in ("mindspore", "torch"):
            raise ImportError(f"MG_BACKEND is {requested!r}, expected 'mindspore' or 'torch'")
        if find_spec(requested) is None:
            raise ImportError(f"MG_BACKEND is {requested!r}, but {requested} is not installed")
        return requested
    installed = [candidate for candidate in ("mindspore", "torch") if find_spec(candidate)]
    imported = [candidate for candidate in installed if candidate in sys.modules]
    if installed:
        return imported[0] if len(imported) == 1 else installed[0]
    raise ImportError(
        "neither MindSpore nor PyTorch is installed: `pip install mindspore==2.8.0` (CPU; for "
        "Ascend see https://www.mindspore.cn/install) or `pip install torch`"
    )


name = _choose()

if name == "torch" or TYPE_CHECKING:
    rest_while_waiting()
    from mg.backend.torch import *  # noqa: F403
else:
    from mg.backend.mindspore import *  # noqa: F403
