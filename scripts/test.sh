#!/usr/bin/env bash
# Run the tests: bash scripts/test.sh [pytest arguments]. Needs neither a network nor a GPU.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh

# Some tests use Slurm and a browser. Where these cannot be installed, the tests are skipped with a message.
say() { printf 'test: %s\n' "$*" >&2; }
. scripts/apt.sh
if command -v dpkg-query >/dev/null; then
    mapfile -t missing < <(missing_packages slurm-wlm chromium chromium-driver)
    if [ ${#missing[@]} -gt 0 ] && find_root; then
        say "installing ${missing[*]}"
        install_packages "${missing[@]}" || say "apt-get could not install ${missing[*]}; their tests are skipped"
    fi
fi

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export WANDB_MODE=offline WANDB_SILENT=true MPLBACKEND=Agg TOKENIZERS_PARALLELISM=false PYTHONNOUSERSITE=1
# Without bytecode on the disk each of some 200 started processes compiles torch and all the rest again.
unset PYTHONDONTWRITEBYTECODE
# The tests train tiny networks. A second thread brings no speed, and costs minutes where cores are shared.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Instead there is one process per core, at most four (each needs 1.5 GB). Neighbouring tests stay together and share
# fixtures.
cores=$(env -u OMP_NUM_THREADS nproc) # if OMP_NUM_THREADS is set, nproc prints it instead of the number of cores
exec .venv/bin/python -m pytest -n $((cores < 4 ? cores : 4)) --dist worksteal "$@"
