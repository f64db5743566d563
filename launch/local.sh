#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, a command on top of it, and nothing left behind.
#
#   launch/local.sh [--nodes N] [--cpus C] COMMAND...
#   launch/local.sh --nodes 2 llmrl train recipes/quickstart/digits.toml cluster.address=auto
#
# C is what each node offers its scheduler; by default the machine's cores are shared out. One node is what a recipe
# with cluster.address = "local" starts by itself; more are for rehearsing a cluster.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nodes=1 cpus=""
while (($#)); do
    case "$1" in
        --nodes) nodes=$2; shift 2 ;;
        --cpus) cpus=$2; shift 2 ;;
        -*) echo "llmrl: unknown option '$1'; known are --nodes N and --cpus C." >&2; exit 2 ;;
        *) break ;;
    esac
done
(($#)) || { echo "usage: launch/local.sh [--nodes N] [--cpus C] COMMAND..." >&2; exit 2; }
cpus=${cpus:-$((($(nproc) + nodes - 1) / nodes))}

# shellcheck source=launch/cluster.sh
source "$here/cluster.sh"
# Ray takes 127.0.0.1 for a mistake and replaces it by the outward address. Its processes talk over this one, but listen
# on all, as nodes of a cluster must: it is the token that keeps others out.
export LLMRL_NODE_IP=127.0.0.2 RAY_ADDRESS
RAY_ADDRESS=$LLMRL_NODE_IP:$(free_port)

in_background "$here/node.sh" head "$RAY_ADDRESS" --num-cpus="$cpus"
for ((i = 1; i < nodes; i++)); do
    in_background "$here/node.sh" worker "$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus=0
done
run_on "$nodes" "$@"
