"""The operations in plain float64 numpy, written for plainness; a video is `(b t c h w)`."""

import numpy as np


def conv2d(x, weight, bias=None, *, stride=1, padding):
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (top, bottom), (left, right)))
    out_channels, _, kernel_height, kernel_width = weight.shape
    height = (x.shape[3] - kernel_height) // stride + 1
    width = (x.shape[4] - kernel_width) // stride + 1
    y = np.zeros((*x.shape[:2], out_channels, height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = x[..., top : top + kernel_height, left : left + kernel_width]
            y[..., row, column] = np.tensordot(window, weight, ((2, 3, 4), (1, 2, 3)))
    return y if bias is None else y + bias[:, None, None]


def upsample_conv2d(x, weight, bias):
    return conv2d(x.repeat(2, 3).repeat(2, 4), weight, bias, padding=(1, 1, 1, 1))


def temporal_conv(x, weight, bias, *, stride=1, upsample=1, padding="replicate"):
    x = x.repeat(upsample, 1)
    num_frames, taps = x.shape[1], weight.shape[3]
    outputs = []
    for centre in range(0, num_frames, stride):
        y = np.zeros((x.shape[0], weight.shape[0], *x.shape[3:])) + bias[:, None, None]
        for tap in range(taps):
            frame = centre + tap - taps // 2
            if padding == "zeros" and not 0 <= frame < num_frames:
                continue
            frame = min(max(frame, 0), num_frames - 1)
            y += np.einsum("oc,bchw->bohw", weight[:, :, 0, tap], x[:, frame])
        outputs.append(y)
    return np.stack(outputs, 1)


def conv3d(x, weight, bias=None, *, stride=(1, 1), padding):
    num_frames, taps = x.shape[1], weight.shape[2]
    outputs = []
    for centre in range(0, num_frames, stride[0]):
        y = 0 if bias is None else bias[:, None, None]
        for tap in range(taps):
            frame = min(max(centre + tap - taps // 2, 0), num_frames - 1)
            image, kernel = x[:, frame : frame + 1], weight[:, :, tap]
            y = y + conv2d(image, kernel, stride=stride[1], padding=padding)[:, 0]
        outputs.append(y)
    return np.stack(outputs, 1)


def group_norm(x, gamma, beta, *, groups, over_clip, epsilon=1e-6):
    y = np.empty_like(x)
    size = x.shape[2] // groups
    for b in range(x.shape[0]):
        for frames in [slice(None)] if over_clip else [slice(t, t + 1) for t in range(x.shape[1])]:
            for first in range(0, x.shape[2], size):
                group = x[b, frames, first : first + size]
                deviation = np.sqrt(group.var() + epsilon)
                y[b, frames, first : first + size] = (group - group.mean()) / deviation
    return y * gamma[:, None, None] + beta[:, None, None]


def group_norm_silu(*arrays, **settings):
    y = group_norm(*arrays, **settings)
    return y / (1 + np.exp(-y))


def relu(x):
    return np.where(x > 0, x, 0)


def leaky_relu(x, *, slope):
    return np.where(x > 0, x, slope * x)


def linear(x, weight, bias):
    return np.einsum("...c,oc->...o", x, weight) + bias


def attention(query, key, value):
    scores = np.einsum("nsc,nrc->nsr", query, key) / np.sqrt(query.shape[2])
    weights = np.exp(scores - scores.max(2, keepdims=True))
    return np.einsum("nsr,nrc->nsc", weights / weights.sum(2, keepdims=True), value)


def max_pool2d(x, *, kernel, stride, ceil_mode=False):
    def starts(length):
        """Where windows start: inside, and whole unless `ceil_mode` keeps one that is not."""
        whole = [s for s in range(0, length, stride) if s + kernel <= length]
        after = whole[-1] + stride
        return [*whole, after] if ceil_mode and whole[-1] + kernel < length > after else whole

    rows, columns = starts(x.shape[3]), starts(x.shape[4])
    y = np.empty((*x.shape[:3], len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            y[..., i, j] = x[..., row : row + kernel, column : column + kernel].max((3, 4))
    return y
