# shellcheck shell=bash
# The interpreter of this clone, for the scripts that source this: .venv comes first on PATH where it is there.

venv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
if [[ -d $venv ]]; then PATH=$venv:$PATH; fi
