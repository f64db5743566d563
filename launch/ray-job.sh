#!/usr/bin/env bash
# `llmrl train` as a job of a Ray cluster that runs already, with this folder's recipes and plugins.
#
#   launch/ray-job.sh ADDRESS RECIPE [KEY=VALUE...]
#   launch/ray-job.sh http://head:8265 recipes/mine.toml run.folder=/shared/runs
#
# The machines need llmrl (the Dockerfile makes such an image) and ray[default], which serves jobs. The job runs in a
# copy of this folder that Ray deletes, so run.folder should be a place that outlives it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh
(($# >= 2)) || { echo "usage: launch/ray-job.sh ADDRESS RECIPE [KEY=VALUE...]" >&2; exit 2; }
address=$1
shift

# A job's environment can be read by everyone who may see its dashboard: secrets belong into the cluster's own.
environment=$(python3 -c '
import json, os
shipped = ("NCCL_", "GLOO_", "HF_", "VLLM_", "RAY_", "LLMRL_")
kept_here = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_TMPDIR", "LLMRL_NODE_IP")
# From SIGTERM to SIGKILL Ray gives a job 3 s, in which nothing is saved.
env = {"RAY_JOB_STOP_WAIT_TIME_S": "1800"}
env |= {k: v for k, v in os.environ.items() if k.startswith(shipped) and k not in kept_here and not k.endswith("TOKEN")}
print(json.dumps({"env_vars": env, "excludes": [".git", ".venv", ".venv-*", "runs", "models"]}))')

exec ray job submit --address "$address" --working-dir . --runtime-env-json "$environment" -- \
    llmrl train "$@" cluster.address=auto
