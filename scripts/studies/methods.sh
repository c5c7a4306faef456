#!/usr/bin/env bash
# Run every group-robust method on one biased data set with 3 seeds, and write the report. Finished runs are not repeated.
#
#   bash scripts/studies/methods.sh BETONS RUNS [SELECTION [SUBG_EPOCHS]]
#
# BETONS: folder with dominoes_{train,val,test}.beton, for example written by
#   python writers/write_betons.py --dataset dominoes --spurious-strength 0.95 --out BETONS ...
#     two classes, MNIST above CIFAR-10:    --raw DIR --mode raw --top-classes 0,1 --bottom-classes automobile,truck
#     two classes, from packages alone:     --top digits --bottom fashion_mnist --top-classes 0,1 --bottom-classes pullover,coat
#     ten classes:                          the same without classes, and --per-class 1000
# RUNS: folder of the runs.
# SELECTION: rule that selects the epoch (default: worst_group; use mean_group for the hundred groups of ten classes).
# SUBG_EPOCHS: epochs of subg, whose epochs are short. Default: subg is left out; it cannot train with groups of single rows.
# EPOCHS, SEEDS (environment): number of epochs (default: 5) and seeds (default: '0 1 2').
# There is one run per core at a time. Two classes of 8,000 images take an hour and a half on two slow cores.
set -euo pipefail
unset CDPATH
betons=$(realpath -- "${1:?BETONS, the folder of the betons}")
runs=$(realpath -m -- "${2:?RUNS, the folder of the runs}")
selection=${3:-worst_group} subg_epochs=${4:-} epochs=${EPOCHS:-5} seeds=${SEEDS:-0 1 2}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS=1

job() { # print the arguments of one run; $1: name, $2: preset of the method, $3: seed, then more settings
    printf '%s ' --config-file dataset_configs/dominoes.yaml --config-file "dataset_configs/methods/$2.yaml" \
        --training.data_root "$betons" --training.outdir "$runs" --training.exp_name "$1_seed$3" --training.seed "$3" \
        --training.epochs "$epochs" --training.batch_size 128 --training.selection "$selection" \
        --training.empty_groups ignore "${@:4}"
    printf '\n'
}
cores=$(env -u OMP_NUM_THREADS nproc) # if OMP_NUM_THREADS is set, nproc prints it instead of the number of cores
run_all() { xargs -P "$cores" -I{} bash -c '.venv/bin/python main.py {} >/dev/null 2>&1 || echo "failed: main.py {}" >&2'; }

for seed in $seeds; do
    for method in erm resample reweight groupdro jtt lff mixup; do
        job "$method" "$method" "$seed"
    done
    # With alpha 0.1, most of the rows that count are bias-aligned. 0.02 is better than 0.1 on validation.
    job cvar cvar "$seed" --cvar.alpha 0.02
    [ -z "$subg_epochs" ] || job subg subg "$seed" --training.epochs "$subg_epochs"
done | run_all
for seed in $seeds; do # DFR takes ERM's network and fits only its last layer again.
    job dfr dfr "$seed" --dfr.checkpoint "$runs/erm_seed$seed/version_0/checkpoints/checkpoint_best.pt"
done | run_all
.venv/bin/python scripts/report.py "$runs" --out "$runs/report" --title "Methods on Dominoes"
