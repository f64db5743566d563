#!/usr/bin/env bash
# Fills .venv with llmrl and all that it needs. A second call does nothing until an input changes.
#
#   launch/install.sh [--without-dev]
#
# LLMRL_ACCELERATOR=cpu|cuda   instead of what `nvidia-smi -L` says, or else what .venv is for already
# LLMRL_PYTHON=python3.12      instead of the first interpreter that fits
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/llmrl-installed          # what was installed; written last, removed first
readonly ACCELERATOR_FILE=$VENV/llmrl-accelerator
readonly LOG=$VENV/llmrl-install.log
readonly UV="uv==0.13.8"
readonly PYTORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
readonly LOCK_DEADLINE_S=1800
readonly NEEDED_DRIVER=580

say() { printf 'llmrl: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# A login node without a GPU leaves alone what was installed for the cluster's.
accelerator() {
    if [[ -n ${LLMRL_ACCELERATOR:-} ]]; then
        echo "$LLMRL_ACCELERATOR"
    elif [[ $(timeout 60 nvidia-smi -L 2>/dev/null || true) == *GPU* ]]; then
        echo cuda
    else
        cat "$ACCELERATOR_FILE" 2>/dev/null || echo cpu
    fi
}

# The driver is the one part of CUDA that no package brings.
check_driver() {
    local driver
    driver=$(timeout 60 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || return 0
    if [[ $driver =~ ^([0-9]+)\. ]] && ((BASH_REMATCH[1] < NEEDED_DRIVER)); then
        die "CUDA 13 needs NVIDIA driver $NEEDED_DRIVER or newer, and this machine has $driver; install it, or set LLMRL_ACCELERATOR=cpu."
    fi
}

# The one library of vLLM's CPU build that no package brings.
check_numa() {
    "$VENV/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        say "vLLM's CPU build needs libnuma.so.1, and this machine has none; on Debian and Ubuntu: apt install libnuma1."
}

# An interpreter is tried by running it: a pyenv shim may exist and fail.
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

interpreters() {
    local name path
    for name in ${LLMRL_PYTHON:-python3.11 python3.12 python3.13 python3}; do
        while read -r path; do
            if fits "$path"; then echo "$path"; fi
        done < <(type -aP "$name")
    done
}

make_venv() {
    local found path
    mapfile -t found < <(interpreters)
    ((${#found[@]})) || die "no Python 3.11, 3.12 or 3.13 on PATH; install one, or name one with LLMRL_PYTHON."
    for path in "${found[@]}"; do
        if makes_venvs "$path"; then
            "$path" -m venv --clear "$VENV"
            return
        fi
    done
    path=${found[0]}
    command -v uv >/dev/null || die "$path cannot make virtual environments (no ensurepip); on Debian and Ubuntu:" \
        "apt install $("$path" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')."
    uv venv --quiet --clear --seed --python "$path" "$VENV"
}

venv_works() { fits "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }

pip_install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$LOG" 2>&1; }

# torch for CPU is not on PyPI. pip's configured sources may have it (uv does not read those), PyTorch's own index has it.
install_cpu_torch() {
    local torch
    torch=$(grep -E '^torch==' constraints/cpu.txt)
    pip_install --no-deps "$torch" || pip_install --no-deps --index-url "$PYTORCH_CPU_INDEX" "$torch" || {
        tail -n 12 "$LOG" >&2
        die "$torch for $("$VENV/bin/python" -V) is neither in pip's configured sources nor to be had from" \
            "$PYTORCH_CPU_INDEX; make one of them reachable (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, a proxy), then run this again."
    }
}

install_with_uv() {
    local options=(--constraint "constraints/$1.txt")
    if [[ $1 == cpu ]]; then options+=(--override constraints/cpu-overrides.txt); fi
    pip_install "$UV" || return 1
    UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_COMPILE_BYTECODE_TIMEOUT=${UV_COMPILE_BYTECODE_TIMEOUT:-600} \
        "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --compile-bytecode \
        "${options[@]}" --editable ".[$2]" >>"$LOG" 2>&1
}

# Slower, and the only way where packages come from a mirror that only pip is configured for.
install_with_pip() {
    pip_install --no-deps --requirement "constraints/$1.txt" && pip_install --no-deps --editable .
}

main() {
    local extras=dev which key
    case "${1:-}" in
        "") ;;
        --without-dev) extras="" ;;
        *) die "unknown option '$1'; the only one is --without-dev." ;;
    esac
    which=$(accelerator)
    [[ $which == cpu || $which == cuda ]] || die "LLMRL_ACCELERATOR must be cpu or cuda, got '$which'."
    extras=$which${extras:+,$extras}

    if [[ $which == cuda ]]; then check_driver; fi

    exec 9<pyproject.toml # one installation at a time, without a file of its own
    flock --wait "$LOCK_DEADLINE_S" 9 || die "another installation has held $PWD for $LOCK_DEADLINE_S s."

    key="$extras $PWD $(cat pyproject.toml constraints/*.txt launch/install.sh | cksum)"
    if [[ $(cat "$STAMP" 2>/dev/null) == "$key" ]] && fits "$VENV/bin/python"; then return; fi
    rm -f "$STAMP"
    # The two builds of torch and of vLLM overwrite each other's files, so a change of device starts afresh.
    if ! venv_works || [[ $(cat "$ACCELERATOR_FILE" 2>/dev/null || echo "$which") != "$which" ]]; then make_venv; fi
    echo "$which" >"$ACCELERATOR_FILE"
    : >"$LOG"

    say "installing for $which into $VENV, $("$VENV/bin/python" -V): a minute or two, 4 GB on CPU and 12 GB with CUDA."
    if [[ $which == cpu ]]; then install_cpu_torch; fi
    if ! install_with_uv "$which" "$extras"; then
        say "uv did not succeed (the log is $LOG); going on with pip, which takes longer."
        install_with_pip "$which" || {
            tail -n 12 "$LOG" >&2
            die "installation failed; the lines above are the end of $LOG."
        }
    fi
    echo "$key" >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
    say "installed in $SECONDS s."
    if [[ $which == cpu ]]; then check_numa; fi
}

main "$@"
