#!/usr/bin/env bash
# Demonstrate the project's main task on real images, from packages alone.
#
# The data set is Dominoes: digits of scikit-learn above garments of Fashion-MNIST. The garment is the class, the digit is
# the shortcut. ERM takes the shortcut; drawing every group equally often takes less of it. Where no training image
# contradicts the shortcut, a small target set helps: to fit the last layer again (dfr), to train on it alone
# (erm_target), or to mix its gradients with those of the training set (scale).
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
PYTHON=.venv/bin/python
OUT=demo

write() { # write the betons; $1: share of the training rows whose digit goes with the class by construction
    local folder=$OUT/betons/strength_$1
    if [ ! -f "$folder/dominoes_test.beton" ]; then # test is the last split that is written
        "$PYTHON" writers/write_betons.py --dataset dominoes --top digits --bottom fashion_mnist \
            --per-class 1000 --spurious-strength "$1" --out "$folder"
    fi
}

train() { # train one network; $1: method, $2: spurious strength, then more settings
    printf '\n--- %s at spurious strength %s\n' "$1" "$2"
    # With a thousand images per class, some of the hundred groups have no training row; hence empty_groups ignore.
    "$PYTHON" main.py --config-file dataset_configs/dominoes.yaml --training.data_root "$OUT/betons/strength_$2" \
        --training.outdir "$OUT/runs" --training.exp_name "$1_$2" --training.method "$1" \
        --training.empty_groups ignore --training.epochs "$epochs" "${@:3}" >/dev/null
}
epochs=${DEMO_EPOCHS:-6}

write 1.0
write 0.95
train erm 1.0
train dfr 1.0 --config-file dataset_configs/methods/dfr_scale.yaml \
    --dfr.checkpoint "$OUT/runs/erm_1.0/version_0/checkpoints/checkpoint_best.pt"
train erm_target 1.0 --training.epochs $((8 * epochs)) # epochs of 1,000 images: as many steps as the other methods
train scale 1.0
train erm 0.95
train resample 0.95

printf '\n'
"$PYTHON" scripts/report.py "$OUT/runs" --out "$OUT/report" --title "Dominoes: digits above Fashion-MNIST"
