"""The same run on both frameworks, as a user starts it."""

import json
from importlib.util import find_spec

import pytest
from cli.support import (
    ROOT,
    run_process,
    train_flags,
    write_checkpoint,
    write_dataset,
    write_squeezenet_lpips,
)

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        not (find_spec("mindspore") and find_spec("torch")), reason="needs both frameworks"
    ),
]


def losses(tmp_path, backend, **options):
    args = train_flags(tmp_path, tmp_path / backend, compile="null", train_steps=5, **options)
    script = ROOT / "scripts" / "train_tae.py"
    outcome = run_process(script, *args, cwd=tmp_path, backend=backend)
    assert outcome.code == 0, outcome.err
    text = (tmp_path / backend / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same_training(tmp_path, **options):
    write_dataset(tmp_path, num_frames=10, height=40, width=48)
    start = write_checkpoint(tmp_path / "start.safetensors")
    options |= {"pretrained": start, "tae_config": {}, "random_flip": True, "seed": 1}
    mindspore, torch = (losses(tmp_path, name, **options) for name in ("mindspore", "torch"))
    assert len(mindspore) == len(torch) == 5
    assert torch[-1]["loss"] != pytest.approx(torch[0]["loss"], rel=1e-3)
    for a, b in zip(mindspore, torch, strict=True):
        for name in ("loss", "reconstruction", "kl", "psnr", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (name, a, b)


def test_five_steps_give_the_same_losses_on_both_frameworks(tmp_path):
    assert_same_training(
        tmp_path, num_frames=8, image_size=16, kl_weight=1e-3, use_outlier_penalty_loss=True
    )


def test_five_steps_with_lpips_give_the_same_losses_on_both_frameworks(test_data, tmp_path):
    weights = write_squeezenet_lpips(test_data, tmp_path / "lpips.safetensors")
    assert_same_training(
        tmp_path, num_frames=2, image_size=32, perceptual_weight=1, lpips_weights=weights
    )


def test_a_run_begun_on_one_framework_goes_on_with_the_other(tmp_path):
    write_dataset(tmp_path, num_frames=10)
    args = {"compile": "null", "ema_decay": 0.5, "seed": 1}
    script = ROOT / "scripts" / "train_tae.py"
    lines = {}
    for output, frameworks in (("torch", ["torch"]), ("moved", ["torch", "mindspore", "torch"])):
        for steps, framework in zip((2, 4, 6)[-len(frameworks) :], frameworks, strict=True):
            command = train_flags(tmp_path, tmp_path / output, train_steps=steps, **args)
            outcome = run_process(script, *command, cwd=tmp_path, backend=framework)
            assert outcome.code == 0, outcome.err
        text = (tmp_path / output / "metrics.jsonl").read_text()
        lines[output] = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines["moved"]] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(lines["torch"], lines["moved"], strict=True):
        for name in ("loss", "kl", "psnr", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-4), (name, one["step"])
