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
