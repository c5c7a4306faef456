#!/usr/bin/env bash
# The main job on real images, from packages alone: Dominoes of scikit-learn's digits above Fashion-MNIST.
# ERM takes the shortcut (the digit); drawing every group equally often takes less of it; where no training image
# contradicts the shortcut, a small target set helps: to fit the last layer anew, to train on alone, or SCALE's way.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
PYTHON=.venv/bin/python
OUT=demo

write() { # strength: the share of training rows whose digit is left to match the class
    local folder=$OUT/betons/strength_$1
    if [ ! -f "$folder/dominoes_test.beton" ]; then # the last split to be written
        "$PYTHON" writers/write_betons.py --dataset dominoes --top digits --bottom fashion_mnist \
            --per-class 1000 --spurious-strength "$1" --out "$folder"
    fi
}

train() { # method, strength, more settings
    printf '\n--- %s at spurious strength %s\n' "$1" "$2"
    # With a thousand images a class, some of the hundred groups have no training row.
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
train erm_target 1.0 --training.epochs $((8 * epochs)) # of a thousand images: as many steps as the others take
train scale 1.0
train erm 0.95
train resample 0.95

printf '\n'
"$PYTHON" scripts/report.py "$OUT/runs" --out "$OUT/report" --title "Dominoes: digits above Fashion-MNIST"
