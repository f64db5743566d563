# shellcheck shell=bash
# What local.sh and slurm.sbatch share; they source it. It stops what it started, by process id, and nothing else.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/venv.sh
source "$here/venv.sh"

readonly STOP_DEADLINE_S=30
RAY_TMPDIR=$(mktemp -d /tmp/llmrl-XXXXXX) # short, because a socket's path has at most 107 bytes
export RAY_TMPDIR
started=() # process ids of the nodes
command="" # process id of the command

# A cluster that others could join would run their code, so every cluster has a token of its own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

free_port() { python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

in_background() {
    "$@" >>"$RAY_TMPDIR/nodes.log" 2>&1 &
    started+=($!)
}

# A launcher of several machines says otherwise.
clear_up() { rm -rf "$RAY_TMPDIR"; }

stop() {
    local status=$? pid left=$((STOP_DEADLINE_S * 5))
    trap - EXIT
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do
        while kill -0 "$pid" 2>/dev/null && ((left-- > 0)); do sleep 0.2; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    case $status in
        0 | 2 | 130 | 143) clear_up ;;
        *) echo "llmrl: the command ended with status $status; Ray's own logs are in $RAY_TMPDIR." >&2 ;;
    esac
}

# Pass a signal on: the command saves and ends, and its end is ours.
pass_on() { if [[ -n $command ]]; then kill -"$1" "$command" 2>/dev/null || true; else exit 143; fi; }

trap stop EXIT
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# run_on NODES COMMAND...: wait for the nodes, run the command, stop the nodes, exit as the command did.
run_on() {
    local nodes=$1 status=0
    shift
    python "$here/wait.py" "$nodes" || { tail -n 30 "$RAY_TMPDIR/nodes.log" >&2; exit 1; }
    # A shell without a terminal starts what is in the background deaf to these, so that passing one on did nothing.
    (trap - INT QUIT; exec "$@") &
    command=$!
    # A trapped signal interrupts wait; only then is the command still there.
    while wait "$command" && status=0 || status=$?; kill -0 "$command" 2>/dev/null; do :; done
    exit "$status"
}
