#!/usr/bin/env bash
# One Ray node on this machine, in the foreground: stop this process and the node is gone.
#
#   launch/node.sh address                   print the address that the other nodes should use for this machine
#   launch/node.sh head HOST:PORT [OPTION]   the head; OPTIONs are those of `ray start`
#   launch/node.sh worker HOST:PORT [OPTION] one more node of the head at HOST:PORT
#
# LLMRL_NIC=ib0     the network interface of Ray, Gloo and NCCL; by default a worker's Ray takes the one that routes to
#                   the head, the head that of the default route, and Gloo and NCCL choose for themselves
# LLMRL_NODE_IP=... the address itself
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

own_address() {
    if [[ -n ${LLMRL_NODE_IP:-} ]]; then
        echo "$LLMRL_NODE_IP"
    elif [[ -n ${LLMRL_NIC:-} ]]; then
        ip -4 -oneline address show dev "$LLMRL_NIC" | awk '{ split($4, parts, "/"); print parts[1]; exit }'
    else
        # Nothing is sent: connecting a datagram socket only looks up the route.
        python -c 'import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    probe.connect((sys.argv[1], 1))
except OSError:
    sys.exit(f"llmrl: this machine has no route to {sys.argv[1]}; name its interface with LLMRL_NIC.")
print(probe.getsockname()[0])' "${1:-192.0.2.1}"
    fi
}

usage() { echo "usage: launch/node.sh address | head HOST:PORT [OPTION...] | worker HOST:PORT [OPTION...]" >&2; exit 2; }

case "${1:-}" in
    address) own_address; exit ;;
    head | worker) [[ ${2:-} == *:* ]] || usage ;;
    *) usage ;;
esac
role=$1 head=$2
shift 2

if [[ -n ${LLMRL_NIC:-} ]]; then
    export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$LLMRL_NIC} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$LLMRL_NIC}
fi
export RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS # it would make `ray start` refuse to start

# Every port but the head's comes from the operating system: fixed ones collide as soon as two jobs share a machine.
options=(--block --disable-usage-stats --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0)
options+=(--node-ip-address="$(own_address "${head%:*}")")
if [[ $role == head ]]; then
    exec ray start --head --port="${head##*:}" --include-dashboard=false "${options[@]}" "$@"
fi
exec ray start --address="$head" "${options[@]}" "$@"
