#!/usr/bin/env bash
# Prepare this checkout: system packages (apt), a Python of 3.11 to 3.14, .venv from requirements.lock, and in it the
# package debeton with its command, as an editable install that points to this checkout's src.
#   bash scripts/setup.sh                            from any folder
#   PYTHON=/path/to/python3.13 bash scripts/setup.sh   to choose the interpreter
# Idempotent: a finished set-up is recognised by a hash of the lock, this file, pyproject.toml's part above [tool.ruff]
# and this folder's path. To start over, delete .venv.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

VERSIONS=(3.12 3.11 3.13 3.14) # of Python, in the order in which they are looked for; pyproject.toml has the range
VENV=.venv
STAMP=$VENV/.debeton-setup

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

fingerprint() {
    local project
    project=$(cat pyproject.toml)
    { cat requirements.lock scripts/setup.sh && printf '%s\n' "${project%%\[tool.ruff\]*}" "$PWD"; } | sha256sum | cut -d' ' -f1
}
is_supported() { case " ${VERSIONS[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

venv_runs() { # check that .venv's interpreter still exists, and has the version of $PYTHON if that is set
    local have
    have=$(version_of "$VENV/bin/python") || return 1
    is_supported "$have" || return 1
    [ -z "${PYTHON:-}" ] || [ "$have" = "$(version_of "$PYTHON")" ]
}

if [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ] && venv_runs; then
    exit 0
fi

. scripts/apt.sh

# --- Python ----------------------------------------------------------------------------------
# Set PY to an interpreter that starts (a pyenv shim may exist without its version) and has the C headers and the venv
# module that building FFCV needs. If there is none, set PART to an interpreter without these, apt's if there is one.
find_python() {
    local candidate real candidates=("${VERSIONS[@]/#/python}" python3 "${VERSIONS[@]/#//usr/bin/python}" /usr/bin/python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    PY='' PART=''
    for candidate in "${candidates[@]}"; do
        is_supported "$(version_of "$candidate")" || continue
        # for a virtual environment (maybe the one that will be replaced), take the interpreter that it was made from
        real=$("$candidate" -c 'import sys; print(sys._base_executable)')
        if "$real" -c 'import ensurepip, os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null; then
            PY=$real
            return
        elif [ -z "$PART" ] || { ! is_apts "$PART" && is_apts "$real"; }; then
            PART=$real
        fi
    done
}

is_apts() { case $(readlink -f "$1") in /usr/bin/*) ;; *) return 1 ;; esac; }

python_of_apt() { # print the first supported version of Python that apt could install; nothing if there is none
    local version
    for version in "${VERSIONS[@]}"; do
        case $(LC_ALL=C apt-cache policy "python$version-dev" 2>/dev/null || true) in
        *"Candidate: "[0-9]*)
            printf '%s\n' "$version"
            return
            ;;
        esac
    done
}

if [ -n "${PYTHON:-}" ]; then
    found=$(version_of "$PYTHON") || die "PYTHON=$PYTHON does not start"
    is_supported "$found" || die "PYTHON=$PYTHON is Python $found; debeton runs on 3.11 to 3.14"
fi

# --- system packages -------------------------------------------------------------------------
# FFCV needs OpenCV's core and imgproc and libturbojpeg; the loader's pixels.c needs libjpeg (of libjpeg-turbo). The
# demo and the tests use Fashion-MNIST.
PACKAGES=(g++ pkg-config libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev libjpeg-dev dataset-fashion-mnist)

find_python
if [ -n "$PY" ]; then
    :
elif [ -n "$PART" ] && is_apts "$PART"; then
    PACKAGES+=("python$(version_of "$PART")-dev" "python$(version_of "$PART")-venv")
elif [ -n "$PART" ]; then
    die "$PART lacks its C headers (Python.h) or the venv module, and it is not apt's, so no apt package adds them
  name a complete Python of 3.11 to 3.14 and run again: PYTHON=/path/to/python3.13 bash scripts/setup.sh"
else # no Python, or only one of another version: Ubuntu 22.04 has 3.10 as python3, and 3.11 beside it
    found=$(python_of_apt)
    if [ -z "$found" ] && find_root; then
        say "asking apt for a Python of 3.11 to 3.14"
        apt update || say "apt-get update failed; going on with the package lists at hand"
        found=$(python_of_apt)
    fi
    if [ -n "$found" ]; then
        PACKAGES+=("python$found-dev" "python$found-venv")
    else
        PACKAGES+=(python3 python3-venv) # they install uv, which then downloads a Python that apt does not have
    fi
fi

command -v dpkg-query >/dev/null ||
    die "this is not a Debian or Ubuntu system (no dpkg-query); use the conda route: conda env create -f environment.yml"
mapfile -t missing < <(missing_packages "${PACKAGES[@]}")
if [ ${#missing[@]} -gt 0 ]; then
    find_root ||
        die "these system packages are missing and this account is neither root nor may use sudo: ${missing[*]}
  ask an administrator for: apt-get install -y --no-install-recommends ${missing[*]}
  or use the conda route: conda env create -f environment.yml"
    say "installing ${missing[*]}"
    install_packages "${missing[@]}" || die "apt-get could not install ${missing[*]}"
    find_python
fi

# --- uv, the virtual environment and its packages -----------------------------------------------
UV=$(command -v uv || true)
if [ -z "$UV" ]; then
    UV=$PWD/.uv/bin/uv
    if ! "$UV" --version >/dev/null 2>&1; then
        say "installing uv"
        rm -rf .uv
        "${PY:-/usr/bin/python3}" -m venv .uv
        PIP_USER=0 .uv/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.9' ||
            die "uv could not be installed: see pip's message above"
    fi
fi

rm -f "$STAMP"
if ! venv_runs; then
    rm -rf "$VENV"
    # Where neither the system nor apt has a Python that fits, uv downloads one.
    "$UV" venv -q --python "${PY:-3.12}" "$VENV" || {
        rm -rf "$VENV"
        die "no Python of 3.11 to 3.14 was found (python3 is $(version_of python3 || echo absent)) and uv could not download one
  install one (pyenv, conda or your administrator) and run again: PYTHON=/path/to/python3.13 bash scripts/setup.sh"
    }
fi

# FFCV includes <opencv2/opencv.hpp> and asks pkg-config for 'opencv4'. Only libopencv-dev (689 MB) has both, although
# FFCV calls nothing outside core and imgproc. Two small files replace them.
SHIM=$(mktemp -d)
trap 'rm -rf "$SHIM"' EXIT
mkdir -p "$SHIM/inc/opencv2" "$SHIM/pc"
printf '#pragma once\n#include "opencv2/core.hpp"\n#include "opencv2/imgproc.hpp"\n' >"$SHIM/inc/opencv2/opencv.hpp"
printf 'Name: OpenCV\nDescription: core and imgproc\nVersion: 4\nLibs: -lopencv_imgproc -lopencv_core\nCflags: -I%s -I/usr/include/opencv4\n' \
    "$SHIM/inc" >"$SHIM/pc/opencv4.pc"

# apt's OpenCV needs apt's compiler and pkg-config, also where an active conda environment puts others first on the
# PATH. The lock is complete, hence --no-deps; packages that were added by hand (for example wandb) stay. The command
# runs in another folder, because uv would read pyproject's constraints here and refuse them: they have no hashes.
install_locked() (
    unset CC CXX CFLAGS CXXFLAGS CPPFLAGS LDFLAGS
    export PATH=/usr/bin:/bin:$PATH PKG_CONFIG_PATH=$SHIM/pc UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
    # Use the system's certificates if there are any, because uv's own do not include those of a company's proxy.
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
    fi
    local root=$PWD
    cd "$SHIM"
    "$UV" pip install -q --python "$root/$VENV/bin/python" --no-deps --require-hashes "$@" -r "$root/requirements.lock"
)
imports() { "$VENV/bin/python" -c 'import ffcv, torch, torchvision, numba, fastargs'; }

say "filling $VENV ($("$VENV/bin/python" --version)) from requirements.lock"
install_locked
if ! imports 2>/dev/null; then
    # uv caches the FFCV that it built. One that was built with other system libraries does not load here.
    install_locked --no-cache --reinstall-package ffcv
    imports || die "the packages installed but do not import; 'python main.py --doctor' says which"
fi
# The package itself: without a network, as the lock has its build backend and every package that it needs.
install_package() (
    local root=$PWD
    cd "$SHIM"
    "$UV" pip install -q --offline --python "$root/$VENV/bin/python" --no-deps --no-build-isolation --reinstall-package debeton \
        -e "$root"
)
install_package || die "debeton itself could not be installed into $VENV: see uv's message above"
# Compiled here, the loader's own decoder is there at the first run; where it cannot be, FFCV's serves.
missing=$(env -u CC PATH=/usr/bin:/bin:"$PATH" "$VENV/bin/python" -c 'from debeton.data.loader.pixels import MISSING; print(MISSING)')
[ -z "$missing" ] || say "the loader's own decoder could not be compiled, FFCV's is used: $missing"
fingerprint >"$STAMP"
say "done"
