"""The same seeds give the same network, latents and video on both frameworks."""

import numpy as np
import pytest

pytestmark = pytest.mark.once

PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from models.random_network import random_network, random_video, tiny_network, values_of
from mg.backend import to_numpy

results = {f"initial {name}": value for name, value in values_of(tiny_network(seed=7)).items()}
tae = random_network({"use_quant_conv": True, "use_post_quant_conv": True})
for t in (1, 9):
    z, mean, logvar = tae.encode(random_video(1, 3, t, 8, 12), seed=4)
    video = tae.decode(z, num_target_frames=t)
    for name, value in {"z": z, "mean": mean, "logvar": logvar, "video": video}.items():
        results[f"{name} of {t} frames"] = to_numpy(value)
np.savez(sys.argv[2], **results)
"""


def test_both_frameworks_compute_the_same(on_both_frameworks):
    on_torch, on_mindspore = on_both_frameworks(PROGRAM)
    for name in on_torch:
        if name.startswith("initial "):
            np.testing.assert_array_equal(on_torch[name], on_mindspore[name], err_msg=name)
        else:
            np.testing.assert_allclose(
                on_torch[name], on_mindspore[name], atol=2e-5, rtol=1e-4, err_msg=name
            )


OTHERS_TENSORS = """
import importlib
import sys
import numpy as np
from mg import backend
sys.path.insert(0, sys.argv[1])
from models.random_network import tiny_network

other = {"torch": "mindspore", "mindspore": "torch"}[backend.name]
tensor = importlib.import_module(other).Tensor
tae, errors = tiny_network(), []
for use, shape in ((tae.encode, (1, 3, 1, 8, 8)), (tae.decode, (1, 4, 1, 1, 1))):
    try:
        use(tensor(np.ones(shape, np.float32)))
    except TypeError as error:
        errors.append(str(error))
np.savez(sys.argv[2], errors=errors)
"""


def test_a_tensor_of_the_other_framework_is_an_error_that_says_what_to_do(on_both_frameworks):
    on_torch, on_mindspore = on_both_frameworks(OTHERS_TENSORS)
    for ours, other, results in (
        ("torch", "mindspore", on_torch),
        ("mindspore", "torch", on_mindspore),
    ):
        message = (
            f"a tensor of {other}, but this program computes by {ours}: set MG_BACKEND={other} "
            "before mg is imported, or give a numpy array"
        )
        assert [*results["errors"]] == [message, message]
