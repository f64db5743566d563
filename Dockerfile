# llmrl with everything that it needs. CUDA comes with torch's wheels; only the driver is the host's.
#
#   docker build -t llmrl:0.1.0 .
#   docker build -t llmrl:0.1.0-cpu --build-arg ACCELERATOR=cpu .
#   docker run --gpus all --shm-size=16g -v $PWD/runs:/llmrl/runs -v $PWD/mine:/llmrl/mine llmrl:0.1.0 \
#       llmrl train mine/recipe.toml
FROM python:3.11-slim-bookworm

# Triton and vLLM compile kernels at run time and need a C++ compiler; vLLM's CPU build loads libnuma; launch/node.sh asks
# `ip` for an interface, and KubeRay's probes of a pod call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ iproute2 libnuma1 wget \
    && rm -rf /var/lib/apt/lists/*

ARG ACCELERATOR=cuda
ENV LLMRL_ACCELERATOR=$ACCELERATOR PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 PATH=/llmrl/.venv/bin:$PATH
WORKDIR /llmrl

# What decides the 4 to 12 GB of packages comes first, so that a change of our own code does not fetch them again.
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY launch/install.sh launch/install.sh
RUN mkdir llmrl && touch llmrl/__init__.py && launch/install.sh --without-dev
# Ray jobs (launch/ray-job.sh, KubeRay) need the part of Ray that serves them.
RUN .venv/bin/uv pip install --python .venv/bin/python --constraint "constraints/$ACCELERATOR.txt" "ray[default]"

COPY . .
CMD ["llmrl", "--help"]
