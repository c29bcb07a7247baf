#!/bin/sh
# Train the small TAE in its three stages. The same command goes on where it was interrupted, also on
# another machine, after copying RUNS there.
#
#   scripts/train_small.sh SET RUNS [LPIPS] [OPTION ...]
#
# SET is what scripts/build_training_set.py made, RUNS the folder of the three runs. Without LPIPS, a
# .safetensors that `mg convert-lpips` made, or with - for it, there are two stages. Options are added
# to those of scripts/train_tae.py in every stage. PYTHON chooses the interpreter.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 SET RUNS [LPIPS] [OPTION ...]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
set_path=$(cd "$1" && pwd)
mkdir -p "$2"
runs=$2
shift 2
lpips=-
if [ $# -gt 0 ]; then
    lpips=$1
    shift
fi
if [ "$lpips" != - ]; then
    lpips=$(cd "$(dirname "$lpips")" && pwd)/$(basename "$lpips")
fi
# A run warns where it goes on from other weights than it began with. Named by a relative path, they
# are the same wherever RUNS is.
cd "$runs"

train() { # stage, CSV file, options
    stage=$1
    csv=$2
    shift 2
    if [ -f "$stage/tae.safetensors" ] || [ -f "$stage/tae.ckpt" ]; then
        echo "$stage is done"
        return
    fi
    "${PYTHON:-python}" "$root/scripts/train_tae.py" \
        --config "$root"/configs/tae/train/small_"$stage"_*.yaml --output_path "$stage" \
        --csv_path "$set_path/$csv" --video_folder "$set_path" --val_csv_path "$set_path/val.csv" "$@"
    if [ ! -f "$stage/tae.safetensors" ] && [ ! -f "$stage/tae.ckpt" ]; then
        exit 0 # stopped, all saved
    fi
}

weights() { # stage
    if [ -f "$1/tae.ckpt" ]; then echo "$1/tae.ckpt"; else echo "$1/tae.safetensors"; fi
}

train stage1 train_images.csv "$@"
train stage2 train.csv --pretrained "$(weights stage1)" "$@"
if [ "$lpips" != - ]; then
    train stage3 train.csv --pretrained "$(weights stage2)" --lpips_weights "$lpips" "$@"
fi
