#!/bin/sh
# Ours beside the plain network on an NVIDIA GPU, and beside Wan where diffusers is installed: encoding,
# decoding, a training step with all losses; 32 and 16 frames of 256x256 in bf16. Needs PyTorch and
# numpy, no more; a C compiler and Python.h besides, or our kernels in Triton are left out. Packages
# may lie in a folder that PYTHONPATH names. Training steps have the card for themselves (--apart):
# by a trial count the plain network's needs more than 74 GiB for 32 frames, so on a card of 80 GB
# its row may say that memory ran out, and the 16 frames are what to compare.
#
#   benchmarks/gpu.sh [flags of speed.py, which come last and so decide]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" "$root/benchmarks/speed.py" --what inference training \
    --sizes 32x256 16x256 --apart training --dtype bf16 --device_target GPU --json gpu.json \
    --contestants ours-torch ours-torch-recompute ours-torch-compiled plain-torch \
    plain-torch-compiled wan "$@"
