#!/bin/sh
# Ours beside the plain network on an NVIDIA GPU, and beside Wan where diffusers is installed: encoding,
# decoding, a training step with all losses; 256x256x32 in bf16. Needs PyTorch and numpy, no more;
# a C compiler and Python.h besides, or our kernels in Triton are left out. Where memory runs out,
# add --apart, which has one contestant on the card at a time and starts it anew in each round.
#
#   benchmarks/gpu.sh [flags of speed.py, which come last and so decide]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" "$root/benchmarks/speed.py" --what inference training --sizes 32x256 \
    --dtype bf16 --device_target GPU --json gpu.json --contestants ours-torch ours-torch-recompute \
    ours-torch-compiled plain-torch plain-torch-compiled wan "$@"
