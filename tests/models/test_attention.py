"""The gradients of attention among positions where attention among frames has one frame only."""

import numpy as np
import pytest

from mg import backend
from mg.backend import from_numpy, named_parameters, to_numpy, value_and_grad
from mg.models.tae.layers import MiddleBlock, Setting

from .random_network import randomise


@pytest.mark.parametrize("compile", [False, True] if backend.name == "mindspore" else [False])
def test_a_constant_added_to_all_keys_has_no_gradient_with_one_frame_either(compile):
    """The softmax does not see it; MindSpore's gradient of softmax did, after one over one."""
    setting = Setting(
        groups=2,
        over_clip=False,
        attention_window=4,
        upsample_padding="replicate",
        use_recompute=False,
        rng=np.random.default_rng(0),
    )
    block = randomise(MiddleBlock(setting, 8))
    rng = np.random.default_rng(1)
    x, projection = rng.standard_normal((2, 2, 1, 8, 2, 2)).astype(np.float32)

    def loss(x, projection):
        y = block(x)
        return (y * projection).sum(), y

    names = named_parameters(block)
    differentiated = value_and_grad(loss, list(names.values()), compile=compile)
    _, gradients = differentiated(from_numpy(x), from_numpy(projection))
    sizes = {
        name: abs(to_numpy(gradient)).max() for name, gradient in zip(names, gradients, strict=True)
    }
    assert sizes["attn_1.0.k.bias"] < 1e-4
    assert sizes["attn_1.0.k.weight"] > 1e-2
