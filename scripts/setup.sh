#!/usr/bin/env bash
# Prepare this checkout: system packages (apt), Python >= 3.11, and .venv from requirements.lock.
# Idempotent: a finished set-up is recognised by the hash of the lock and of this file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMP=$VENV/.debeton-setup

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

fingerprint() { cat requirements.lock scripts/setup.sh | sha256sum | cut -d' ' -f1; }

if [ -x "$VENV/bin/python" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]; then
    exit 0
fi

# --- system packages -------------------------------------------------------------------------
# FFCV compiles against OpenCV core/imgproc and libturbojpeg; Fashion-MNIST feeds the demo and tests.
PACKAGES=(g++ pkg-config libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev dataset-fashion-mnist)

# The newest supported interpreter that really starts (a pyenv shim may exist without its version).
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

python_is_whole() { # headers for compiling, venv for the environment
    "$1" -c 'import ensurepip, os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

PY=$(find_python)
if [ -z "$PY" ]; then
    PACKAGES+=(python3 python3-dev python3-venv)
elif ! python_is_whole "$PY"; then
    version=$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    PACKAGES+=("python$version-dev" "python$version-venv")
fi

missing=()
for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "these system packages are missing and apt-get is not here to install them: ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=(sudo)
    else
        die "these system packages are missing and this account is neither root nor may use sudo: ${missing[*]}
  ask an administrator for: apt-get install -y --no-install-recommends ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

PY=$(find_python)
[ -n "$PY" ] || die "no Python 3.11 or 3.12 was found (python3 is $(python3 --version 2>&1)).
  install one (for example 'uv python install 3.12') and run again with PYTHON=/path/to/python3.12"

# --- Python packages -------------------------------------------------------------------------
UV=$(command -v uv || true)
if [ -z "$UV" ]; then
    if [ ! -x .uv/bin/uv ]; then
        say "installing uv"
        "$PY" -m venv .uv
        .uv/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.9'
    fi
    UV=.uv/bin/uv
fi

# FFCV includes <opencv2/opencv.hpp> and asks pkg-config for 'opencv4', both of which only the 689 MB
# libopencv-dev brings, although it calls nothing outside core and imgproc. Two small files stand in.
SHIM=$(mktemp -d)
trap 'rm -rf "$SHIM"' EXIT
mkdir -p "$SHIM/inc/opencv2" "$SHIM/pc"
printf '#pragma once\n#include "opencv2/core.hpp"\n#include "opencv2/imgproc.hpp"\n' >"$SHIM/inc/opencv2/opencv.hpp"
printf 'Name: OpenCV\nDescription: core and imgproc\nVersion: 4\nLibs: -lopencv_imgproc -lopencv_core\nCflags: -I%s -I/usr/include/opencv4\n' \
    "$SHIM/inc" >"$SHIM/pc/opencv4.pc"

say "creating $VENV with $("$PY" --version) from requirements.lock"
rm -f "$STAMP"
[ -x "$VENV/bin/python" ] || "$UV" venv -q --allow-existing --python "$PY" "$VENV"
PKG_CONFIG_PATH="$SHIM/pc:${PKG_CONFIG_PATH:-}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}" \
    "$UV" pip sync -q --python "$VENV/bin/python" --require-hashes requirements.lock

"$VENV/bin/python" -c 'import ffcv, torch, torchvision, numba, fastargs' ||
    die "the packages installed but do not import; 'python main.py --doctor' says which"
fingerprint >"$STAMP"
say "done"
