"""Checkpoints: exact, strict, atomic."""

import json
import logging
import os
import re

import numpy as np
import pytest
import safetensors.numpy

from mg import backend
from mg.arrays import read_safetensors
from mg.models.tae import weights
from mg.models.tae.ckpt import _message as ckpt_message
from mg.models.tae.ckpt import read_ckpt, write_ckpt
from mg.models.tae.tae import MINDONE_TAE_CONFIG, TemporalAutoencoder, check_config
from mg.models.tae.weights import infer_sizes, read_weights, write_weights

from .random_network import random_network, tiny_network, values_of

SUFFIXES = [".safetensors", ".ckpt"]
CHANGE = {"norm_scope": "clip", "scaling_factor": 0.25, "use_quant_conv": True}


@pytest.fixture(scope="module")
def network():
    return random_network(CHANGE)


@pytest.fixture(scope="module")
def arrays(network):
    return values_of(network)


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def assert_equal(first, second):
    assert set(first) == set(second)
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def save_raw(path, arrays, **metadata):
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


# Round trips


def test_a_checkpoint_gives_back_every_bit_and_the_config(tmp_path, network, arrays, suffix):
    path = tmp_path / f"new directory/a{suffix}"
    write_weights(path, arrays, network.config)
    read, config = read_weights(path)
    assert_equal(read, arrays)
    assert config == network.config == check_config(config)
    loaded = TemporalAutoencoder(path, seed=5)
    assert loaded.config == network.config
    assert_equal(values_of(loaded), arrays)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_config_that_is_given_goes_before_the_files(tmp_path, network, arrays):
    path = tmp_path / "a.safetensors"
    write_weights(path, arrays, network.config)
    loaded = TemporalAutoencoder(path, config={"norm_scope": "frame"})
    assert loaded.config == {**network.config, "norm_scope": "frame"}


def test_half_precision_is_read_exactly_as_float32(tmp_path, rng):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.tensor(rng.standard_normal((3, 4, 1, 3)) * 10.0 ** rng.integers(-6, 5, 3))
    values.view(-1)[:3] = torch.tensor([0.0, -0.0, float("inf")])
    halves = {
        "bf16": values.to(torch.bfloat16),
        "fp16": values.to(torch.float16),
        "fp64": values.double(),
        "scalar": torch.tensor(0.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    save_file(halves, tmp_path / "a.safetensors")
    read, _ = read_safetensors(tmp_path / "a.safetensors")
    assert set(read) == set(halves)
    for name, tensor in halves.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], tensor.float().numpy())


# What does not fit


def changed(arrays, without=None, **others):
    return {name: array for name, array in {**arrays, **others}.items() if name != without}


NAME = "encoder.mid.attn_1.1.to_q.weight"
MISFITS = {
    "missing": (
        lambda arrays: changed(arrays, without=NAME),
        rf"1 parameters do not fit the network; {NAME}: the network has \(16, 16\), "
        "the file has none",
    ),
    "unexpected": (
        lambda arrays: changed(arrays, **{"decoder.extra.bias": np.zeros(3, np.float32)}),
        r"1 parameters .*; decoder.extra.bias: the network has none, the file has \(3,\)",
    ),
    "of another shape": (
        lambda arrays: changed(arrays, **{NAME: np.zeros((16, 15), np.float32)}),
        rf"1 parameters .*; {NAME}: the network has \(16, 16\), the file has \(16, 15\)",
    ),
    "of the same size but another shape": (
        lambda arrays: changed(arrays, **{NAME: np.zeros((256,), np.float32)}),
        rf"1 parameters .*; {NAME}: the network has \(16, 16\), the file has \(256,\)",
    ),
    "wrong in three places": (
        lambda arrays: changed(
            arrays, without=NAME, a=np.zeros(1, np.float32), b=np.zeros(1, np.float32)
        ),
        f"3 parameters do not fit the network; {NAME}",
    ),
}


@pytest.mark.parametrize(("misfit", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_parameter_that_does_not_fit_is_named_and_nothing_is_loaded(arrays, misfit, message):
    network = tiny_network(CHANGE)
    before = values_of(network)
    with pytest.raises(ValueError, match=f"a file: {message}"):
        weights.load_strictly(backend.named_parameters(network), misfit(arrays), source="a file")
    assert_equal(values_of(network), before)


def test_a_checkpoint_that_does_not_fit_is_an_error_that_names_the_file(
    tmp_path, network, arrays, suffix
):
    path = tmp_path / f"a{suffix}"
    write_weights(path, changed(arrays, without=NAME), network.config)
    with pytest.raises(ValueError, match=rf"a{suffix}: 1 parameters .*{NAME}"):
        TemporalAutoencoder(path)


def test_weights_of_another_network_are_an_error_that_names_the_file(tmp_path):
    path = save_raw(tmp_path / "a.safetensors", {"fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"a.safetensors: not the weights of a TAE: .*conv_in"):
        TemporalAutoencoder(path)


def test_prefixes_of_training_wrappers_are_stripped(tmp_path, network, arrays):
    for prefix in ("autoencoder.", "autoencoder._backbone.", "_orig_mod.module.", "module."):
        wrapped = {f"{prefix}{name}": array for name, array in arrays.items()}
        path = save_raw(tmp_path / "a.safetensors", wrapped, tae_config=json.dumps(network.config))
        read, config = read_weights(path)
        assert config == network.config
        assert_equal(read, arrays)


def test_a_weight_with_a_wrapper_s_prefix_and_without_is_an_error(tmp_path, arrays):
    twice = {**arrays, f"autoencoder.{NAME}": arrays[NAME]}
    with pytest.raises(ValueError, match=r"a.safetensors: holds some weights twice"):
        read_weights(save_raw(tmp_path / "a.safetensors", twice))


def test_the_weights_of_a_safetensors_file_come_in_the_order_of_their_names(tmp_path, arrays):
    read, _ = read_weights(save_raw(tmp_path / "a.safetensors", arrays))
    assert list(read) == sorted(arrays)


def test_unused_parameters_of_mindone_are_dropped_with_a_log_line(arrays, caplog):
    unused = {
        f"encoder.down.{level}.block.0.temb_proj.{kind}": np.ones(3, np.float32)
        for level in range(2)
        for kind in ("weight", "bias")
    }
    network = tiny_network(CHANGE)
    with caplog.at_level(logging.INFO, logger="mg"):
        weights.load_strictly(
            backend.named_parameters(network), {**arrays, **unused}, source="theirs.ckpt"
        )
    assert_equal(values_of(network), arrays)
    assert [record.getMessage() for record in caplog.records] == [
        "theirs.ckpt: dropped 4 temb_proj arrays, which no forward uses"
    ]
    assert weights.is_mindone({**arrays, **unused})
    assert not weights.is_mindone(arrays)


def test_sizes_are_inferred_from_the_weights(network, arrays):
    inferred = infer_sizes(arrays)
    assert len(inferred) == 8
    assert inferred == {key: network.config[key] for key in inferred}
    other = {"in_channels": 1, "out_ch": 2, "num_res_blocks": 3, "ch_mult": [1, 4]}
    network = tiny_network({**other, "use_post_quant_conv": True})
    inferred = infer_sizes(values_of(network))
    assert inferred == {key: network.config[key] for key in inferred}


@pytest.mark.once
@pytest.mark.parametrize("shape", [(), (8,), (0, 3, 3, 3)], ids=str)
def test_sizes_of_what_is_no_convolution_are_an_error(arrays, shape):
    name = "decoder.conv_out.conv_spat.weight"
    message = f"not the weights of a TAE: {name} is {shape}, expected (o c h w)"
    with pytest.raises(ValueError, match=re.escape(message)):
        infer_sizes({**arrays, name: np.zeros(shape, np.float32)})


@pytest.mark.once
def test_a_block_of_a_large_number_is_one_block_and_blocks_are_counted_from_0(arrays):
    name = "encoder.down.0.block.999999999.conv1.conv_spat.weight"
    with pytest.raises(ValueError, match=r"there is no encoder\.down\.0\.block\.1\.conv1"):
        infer_sizes({**arrays, name: np.zeros((8, 8, 3, 3), np.float32)})


@pytest.mark.once
def test_a_small_file_of_what_would_be_a_large_network_is_refused_at_once(tmp_path, arrays):
    name = "encoder.down.1.block.0.conv1.conv_spat.weight"
    small = {**arrays, "encoder.conv_in.conv_spat.weight": np.zeros((2048, 1, 1, 1), np.float32)}
    for changed in (small, {**arrays, name: np.zeros((2048, 1, 1, 1), np.float32)}):
        path = save_raw(tmp_path / "a.safetensors", changed)
        with pytest.raises(ValueError, match=r"is \(2048, 1, 1, 1\), expected \(2048, "):
            TemporalAutoencoder(path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.down.0.block.0.conv1", (1024, 8, 3, 3)),
        ("encoder.down.1.block.0.conv2", (16, 2, 3, 3)),
        ("decoder.conv_in", (1, 4000, 3, 3)),
        ("encoder.conv_out", (1, 1, 3, 3)),
    ],
)
def test_sizes_that_contradict_one_another_are_refused_at_once(tmp_path, arrays, name, shape):
    changed = {**arrays, f"{name}.conv_spat.weight": np.zeros(shape, np.float32)}
    path = save_raw(tmp_path / "a.safetensors", changed)
    with pytest.raises(ValueError, match=r"not the weights of a TAE: .* expected \("):
        TemporalAutoencoder(path)


# Damaged files


def test_a_checkpoint_cut_anywhere_is_an_error_that_names_it(tmp_path, network, arrays, suffix):
    write_weights(tmp_path / f"whole{suffix}", arrays, network.config)
    data = (tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    places = [0, 1, 7, 8, 9, 300, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1]
    for place in places:
        path.write_bytes(data[:place])
        with pytest.raises(ValueError, match=f"cut{suffix}: ") as caught:
            TemporalAutoencoder(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["no weights at all\n" * 100, "{}", "video\na.mp4\n"])
def test_a_text_file_is_no_checkpoint(tmp_path, suffix, content):
    path = tmp_path / f"text{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"text{suffix}: ") as caught:
        TemporalAutoencoder(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_directory_is_an_error(tmp_path):
    for name in ("none.safetensors", "none.ckpt", "none.bin"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such checkpoint file"):
            TemporalAutoencoder(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        TemporalAutoencoder(tmp_path)


def test_another_suffix_is_an_error_to_read_and_to_write(tmp_path, arrays):
    (tmp_path / "a.pth").write_bytes(b"1234")
    message = r"a.pth: expected a checkpoint named \*.safetensors or \*.ckpt"
    with pytest.raises(ValueError, match=message):
        TemporalAutoencoder(tmp_path / "a.pth")
    (tmp_path / "a.pth").unlink()
    with pytest.raises(ValueError, match=message):
        write_weights(tmp_path / "a.pth", arrays, {})
    assert not list(tmp_path.iterdir())


def ckpt(path, *entries):
    """A MindSpore checkpoint of (name, type, dims, content)."""
    message = ckpt_message()
    for name, kind, dims, content in entries:
        value = message.value.add(tag=name)
        value.tensor.tensor_type, value.tensor.tensor_content = kind, content
        value.tensor.dims.extend(dims)
    path.write_bytes(message.SerializeToString())
    return path


@pytest.mark.skipif(backend.name != "mindspore", reason="needs MindSpore to compare with")
def test_a_mindspore_checkpoint_is_what_mindspore_reads_and_writes(tmp_path, rng):
    import mindspore

    arrays = {"a": rng.standard_normal((2, 3)), "b": np.float64(3), "c": rng.random((4, 1, 2))}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    arrays |= {"d": np.arange(5, dtype=np.uint8), "e": np.float16([1, 2])}
    write_ckpt(tmp_path / "ours.ckpt", arrays)
    loaded = mindspore.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert_equal({name: value.asnumpy() for name, value in loaded.items()}, arrays)

    parameters = [{"name": name, "data": mindspore.Tensor(a)} for name, a in arrays.items()]
    half = mindspore.Tensor([1.5, -2], mindspore.bfloat16)
    parameters.append({"name": "f", "data": half})
    path = tmp_path / "theirs.ckpt"
    for checksum in (False, True):
        mindspore.save_checkpoint(parameters, str(path), crc_check=checksum)
        assert_equal(read_ckpt(path), {**arrays, "f": np.float32([1.5, -2])})
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="theirs.ckpt: not a whole MindSpore checkpoint"):
        read_ckpt(path)


def test_a_checkpoint_beyond_protobufs_limit_is_not_begun(tmp_path):
    huge = np.broadcast_to(np.float32(0), (1 << 29,))
    with pytest.raises(ValueError, match="a.ckpt: more than the 2 GiB"):
        write_weights(tmp_path / "a.ckpt", {"a": huge}, {})
    assert not list(tmp_path.iterdir())


def test_a_large_array_of_a_mindspore_checkpoint_comes_in_parts(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    halves = [("a", "Float32", (2, 3), values.tobytes()[k : k + 12]) for k in (0, 12)]
    path = ckpt(tmp_path / "a.ckpt", *halves, ("b", "Int32", (1,), b"\1\0\0\0"))
    read = read_ckpt(path)
    np.testing.assert_array_equal(read["a"], values)
    assert read["b"].tolist() == [1]


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [
        ("Float32", (1,), 4000),  # MindSpore's own reader writes beyond the array
        ("Float32", (5,), 16),
        ("Float32", (4,), 15),
        ("Float32", (2 * 10**9,), 16),
        ("Float32", (-1,), 4),
        ("Float32", (-1, -1), 4),
        ("Float32", (0,), 8),
        ("Float32", (1,) * 40, 4),
        ("Float64", (1,), 4),
        ("Float128", (1,), 16),
        ("str", (1,), 4),
        ("", (), 0),
    ],
)
def test_a_mindspore_checkpoint_whose_shapes_and_contents_differ_is_refused(
    tmp_path, kind, dims, size
):
    path = ckpt(tmp_path / "a.ckpt", ("conv", kind, dims, bytes(size)))
    with pytest.raises(ValueError, match=r"a.ckpt: not a whole MindSpore checkpoint \('conv' is"):
        read_ckpt(path)


def test_a_checkpoint_of_pytorch_named_ckpt_is_told_from_a_damaged_one(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"conv": torch.zeros(2)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a whole MindSpore checkpoint, but one of PyTorch"):
        read_ckpt(tmp_path / "a.ckpt")


def test_a_name_that_comes_twice_in_a_mindspore_checkpoint_is_refused(tmp_path):
    a, b = (("a", "Float32", (1,), bytes(4)), ("b", "Float32", (1,), bytes(4)))
    with pytest.raises(ValueError, match="not a whole MindSpore checkpoint"):
        read_ckpt(ckpt(tmp_path / "a.ckpt", a, b, a))


def test_a_shape_beyond_numpys_is_an_error_that_names_the_array(tmp_path):
    header = {"conv": {"dtype": "F32", "shape": [0, 2**62, 4], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="a.safetensors: conv: "):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.once
def test_a_pipe_in_place_of_a_config_is_no_file(tmp_path, network):
    network.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        TemporalAutoencoder.from_pretrained(tmp_path)


def test_arrays_that_are_no_numbers_are_an_error(tmp_path):
    path = save_raw(tmp_path / "a.safetensors", {"x": np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match="a.safetensors: x is of type I64, expected floating"):
        read_weights(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "its config is not JSON"),
        ("", "its config is not JSON"),
        ("[" * 100_000, "its config is not JSON"),
        ('{"ch": 1048576, "num_groups": 1}', "ch is 1048576, but the weights have 8"),
        ("[1, 2]", r"its config is .*\[1, 2\].*, expected an object"),
        ('{"chanels": 8}', "unknown TAE config key 'chanels'"),
        ('{"ch": "8"}', "TAE config ch is '8'"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error_that_names_the_file(
    tmp_path, arrays, suffix, text, message
):
    path = tmp_path / f"a{suffix}"
    if suffix == ".ckpt":
        stored = np.frombuffer(text.encode(), np.uint8)
        write_ckpt(path, {**arrays, weights.CONFIG_KEY: stored})
    else:
        save_raw(path, arrays, tae_config=text)
    with pytest.raises(ValueError, match=f"a{suffix}: {message}"):
        TemporalAutoencoder(path)


def test_a_config_that_is_missing_can_be_given_and_is_warned_of(tmp_path, arrays, suffix, caplog):
    path = tmp_path / f"a{suffix}"
    if suffix == ".ckpt":
        write_ckpt(path, arrays)
    else:
        save_raw(path, arrays)
    known = {"num_groups": 4, "norm_scope": "clip"}
    assert TemporalAutoencoder(path, known).config["norm_scope"] == "clip"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} carries no config: scaling_factor, shift_factor, attention_window, "
        "upsample_padding are assumed to be TAE_CONFIG's; where they are not, results are wrong: "
        "give the config it was trained with (config=)"
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, network, arrays, suffix, value):
    path, name = tmp_path / f"a{suffix}", "decoder.conv_in.conv_spat.weight"
    broken = {**arrays, name: arrays[name].copy()}
    broken[name].reshape(-1)[5] = value
    write_weights(path, broken, network.config)
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinite values"):
        TemporalAutoencoder(path)


# Interrupted writes


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, ValueError])
@pytest.mark.parametrize("existed", [True, False])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, network, arrays, suffix, monkeypatch, interruption, existed
):
    path = tmp_path / f"a{suffix}"
    if existed:
        write_weights(path, arrays, network.config)
    before = path.read_bytes() if existed else None

    def write_half(first, second, *_, **__):
        file = second if suffix == ".safetensors" else first
        with open(file, "wb") as opened:
            opened.write(b"half")
        raise interruption("interrupted")

    if suffix == ".safetensors":
        monkeypatch.setattr(safetensors.numpy, "save_file", write_half)
    else:
        monkeypatch.setattr("mg.models.tae.ckpt.write_ckpt", write_half)
    with pytest.raises(interruption):
        write_weights(path, arrays, network.config)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] * existed
    assert not existed or path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_an_os_error(tmp_path, arrays, suffix):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        write_weights(tmp_path / "file" / f"a{suffix}", arrays, {})


def test_mindones_config_differs_where_its_weights_depend_on_it():
    assert MINDONE_TAE_CONFIG["norm_scope"] == "clip"
    assert MINDONE_TAE_CONFIG["upsample_padding"] == "zeros"
