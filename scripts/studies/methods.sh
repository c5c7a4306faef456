#!/usr/bin/env bash
# Every group-robust method on one biased set, 3 seeds, and the report. What is finished is not repeated.
#
#   bash scripts/studies/methods.sh BETONS RUNS [SELECTION [SUBG_EPOCHS]]
#
# BETONS: a folder with dominoes_{train,val,test}.beton, for example of
#   python writers/write_betons.py --dataset dominoes --spurious-strength 0.95 --out BETONS ...
#     two classes, MNIST above CIFAR-10:    --raw DIR --mode raw --top-classes 0,1 --bottom-classes automobile,truck
#     two classes, from packages alone:     --top digits --bottom fashion_mnist --top-classes 0,1 --bottom-classes pullover,coat
#     ten classes:                          the same without classes, and --per-class 1000
# RUNS: where the runs go. SELECTION: which epoch is kept (worst_group; of ten classes' hundred groups mean_group).
# SUBG_EPOCHS: of subg, whose epochs are short; without it subg is left out (with groups of single rows it cannot train).
# EPOCHS and SEEDS in the environment change 5 epochs and the seeds '0 1 2'. One run a core at a time: an hour and a half
# for two classes of 8,000 images on two slow cores.
set -euo pipefail
unset CDPATH
betons=$(realpath -- "${1:?BETONS, the folder of the betons}")
runs=$(realpath -m -- "${2:?RUNS, the folder of the runs}")
selection=${3:-worst_group} subg_epochs=${4:-} epochs=${EPOCHS:-5} seeds=${SEEDS:-0 1 2}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS=1

job() { # name, method's preset, seed, more settings: the arguments of one run
    printf '%s ' --config-file dataset_configs/dominoes.yaml --config-file "dataset_configs/methods/$2.yaml" \
        --training.data_root "$betons" --training.outdir "$runs" --training.exp_name "$1_seed$3" --training.seed "$3" \
        --training.epochs "$epochs" --training.batch_size 128 --training.selection "$selection" \
        --training.empty_groups ignore "${@:4}"
    printf '\n'
}
cores=$(env -u OMP_NUM_THREADS nproc) # nproc counts by that variable, where it is set
run_all() { xargs -P "$cores" -I{} bash -c '.venv/bin/python main.py {} >/dev/null 2>&1 || echo "failed: main.py {}" >&2'; }

for seed in $seeds; do
    for method in erm resample reweight groupdro jtt lff mixup; do
        job "$method" "$method" "$seed"
    done
    # A tenth of a batch is aligned rows for the most part; alpha is the better of 0.02 and 0.1 on validation.
    job cvar cvar "$seed" --cvar.alpha 0.02
    [ -z "$subg_epochs" ] || job subg subg "$seed" --training.epochs "$subg_epochs"
done | run_all
for seed in $seeds; do # The same network as ERM's: only its last layer is fitted anew.
    job dfr dfr "$seed" --dfr.checkpoint "$runs/erm_seed$seed/version_0/checkpoints/checkpoint_best.pt"
done | run_all
.venv/bin/python scripts/report.py "$runs" --out "$runs/report" --title "Methods on Dominoes"
