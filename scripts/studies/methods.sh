#!/usr/bin/env bash
# Every group-robust method on Dominoes whose digit goes with the class in 95.5 % of the training images, 3 seeds.
#
#   bash scripts/studies/methods.sh BETONS RUNS [EPOCHS]
#
# BETONS: a folder with dominoes_{train,val,test}.beton, e.g. from
#   python writers/write_betons.py --dataset dominoes --top digits --bottom fashion_mnist --per-class 1000 \
#       --spurious-strength 0.95 --out BETONS
# RUNS: where the runs go; what is finished there is not repeated. On 2 cores some twenty minutes for 6 epochs of 8,000 images.
set -euo pipefail
unset CDPATH
betons=$(realpath -- "${1:?BETONS, the folder of the betons}")
runs=$(realpath -m -- "${2:?RUNS, the folder of the runs}")
epochs=${3:-6}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

train() { # name, method's preset, seed, more settings
    local name=$1 method=$2 seed=$3
    shift 3
    .venv/bin/python main.py --config-file dataset_configs/dominoes.yaml --config-file "dataset_configs/methods/$method.yaml" \
        --training.data_root "$betons" --training.outdir "$runs" --training.exp_name "${name}_seed$seed" \
        --training.seed "$seed" --training.epochs "$epochs" --training.batch_size 128 --training.selection mean_group \
        --training.empty_groups ignore "$@" >/dev/null
}

for seed in 0 1 2; do
    train erm erm "$seed"
    # Not subg: some of the hundred groups have a single row, and one row of each is no training set.
    for method in resample reweight groupdro jtt lff cvar mixup; do
        train "$method" "$method" "$seed"
    done
    # The same network as ERM's: only its last layer is fitted anew.
    train dfr dfr "$seed" --dfr.checkpoint "$runs/erm_seed$seed/version_0/checkpoints/checkpoint_best.pt"
done
.venv/bin/python scripts/report.py "$runs" --out "$runs/report" --title "Methods on Dominoes"
