"""The memory of every role on one device, part by part, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrl.footprint import (
    CHUNK_LOGITS,
    CHUNK_TOKENS,
    CPU_KV_CACHE_MIB,
    CUDA_RESIDUE,
    GRADIENT_BUCKET,
    forward_tokens,
)
from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines, host_memory_bytes
from llmrl.plan.placement import Placement
from llmrl.plan.workload import Workload

GRAPHS = 1e9
"""Bytes of an engine's CUDA graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one process keeps on its device."""

    role: str
    parts: Mapping[str, Figure]
    limit: float
    """Bytes that it may use."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(part.value for part in self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has room for all parts."""
        return self.total <= self.limit


def _bytes(formula: str, value: float, **inputs: float) -> Figure:
    return Figure(value=value, unit="bytes", formula=formula, inputs=inputs)


def _dealt(formula: str, value: float, shards: int, **inputs: float) -> Figure:
    """A part of which each rank has its share, where ZeRO shards it."""
    if shards == 1:
        return _bytes(formula, value, **inputs)
    return _bytes(f"{formula} / W", value / shards, **inputs, W=shards)


def rank_needs(workload: Workload, placement: Placement, machines: Machines) -> Needs:
    """Needs of one policy rank, in the backward pass of a full micro-batch or, if larger, in the update."""
    shape, w, ranks = workload.architecture, workload.width, placement.ranks
    p, trained, gpu = shape.parameters, workload.trained, machines.device.is_gpu
    split = {stage: ranks if placement.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    left, states = placement.kept(gpu=gpu), placement.state_bytes(w)
    parts = {
        "weights": _dealt("w P", w * p if "weights" in left else 0, split[3], w=w, P=p),
        "optimizer": _dealt(
            "k P", states * trained if "optimizer" in left else 0, split[1], k=states, P=trained
        ),
        "gathered": _gathered(workload, placement, gpu=gpu),
        "copies for engines": _copies(workload, placement, gpu=gpu),
        "reference": _bytes("w P, not sharded", w * p if workload.scores_reference else 0, w=w, P=p),
        "sleeping engine": _asleep(workload, placement, gpu=gpu),
    }
    moments = (
        _backward(workload, placement, split[2], gpu=gpu),
        _updating(workload, placement, split[1], gpu=gpu),
    )
    parts |= max(moments, key=lambda moment: sum(part.value for part in moment.values()))
    kept = {name: part for name, part in parts.items() if part.value}
    return Needs(role="rank", parts=kept, limit=_limit(placement, machines))


def _asleep(workload: Workload, placement: Placement, *, gpu: bool) -> Figure:
    """What an engine leaves on a device that it lends to a rank."""
    if not (gpu and placement.shared and placement.engines):
        return _bytes("no engine sleeps here", 0)
    # The torch engine has no graphs, and takes its opponent to the host.
    stays = placement.engine == "vllm"
    graphs, opponent = stays * GRAPHS, stays * workload.opponent_width * workload.architecture.parameters
    return _bytes(
        "context + graphs + opponent, which stay",
        CUDA_RESIDUE + graphs + opponent,
        context=CUDA_RESIDUE,
        graphs=graphs,
        opponent=opponent,
    )


def _gathered(workload: Workload, placement: Placement, *, gpu: bool) -> Figure:
    """What ZeRO 3 makes whole: weights to be sent, or a layer and its gradients, which it takes as one.

    Not with adapters, whose layers it takes matrix by matrix.
    """
    shape, w = workload.architecture, workload.width
    if placement.zero_stage < 3 or (placement.ranks == 1 and "weights" in placement.kept(gpu=gpu)):
        return _bytes("nothing is sharded", 0)
    bucket, layer = placement.bucket_mib * 2**20, 0 if workload.adapters else shape.layer
    return _bytes(
        "max(bucket, w V d, 2 w layer) of ZeRO 3",
        max(bucket, w * shape.head, 2 * w * layer),
        bucket=bucket,
        w=w,
        V=shape.vocabulary,
        d=shape.hidden,
        layer=layer,
    )


def _backward(workload: Workload, placement: Placement, shards: int, *, gpu: bool) -> dict[str, Figure]:
    """Memory of the backward pass beside the states, for a rank with 1 / ``shards`` of the gradients."""
    w, trained = workload.width, workload.trained
    g = 4 if placement.zero_stage >= 2 else w
    bucket = GRADIENT_BUCKET["cuda" if gpu else "cpu"]
    here = trained if "gradients" in placement.kept(gpu=gpu) else 0
    return {
        "gradients": _dealt("g P", g * here, shards, g=g, P=trained),
        "activations": _activations(workload, placement, gpu=gpu),
        "head": _head(workload, placement, gpu=gpu),
        "buckets": _bytes(
            "w min(P, bucket) from ZeRO 2 on",
            w * min(trained, bucket) if placement.zero_stage >= 2 else 0,
            w=w,
            P=trained,
            bucket=bucket,
        ),
    }


def _updating(workload: Workload, placement: Placement, shards: int, *, gpu: bool) -> dict[str, Figure]:
    """Memory of the update beside the states, for a rank with 1 / ``shards`` of the parameters.

    ZeRO flattens gradients, then copies them to float32. ZeRO 3, and 2 in bfloat16, have them flat and in
    float32 already; without ZeRO they are copied only.
    """
    w, trained = workload.width, workload.trained
    flattens = placement.zero_stage == 1 or (placement.zero_stage == 2 and w == 4)
    copies = w < 4 and placement.zero_stage < 2
    if not (flattens or copies) or "optimizer" not in placement.kept(gpu=gpu):
        return {}
    return {
        "gradients": _dealt("w P", w * trained, shards, w=w, P=trained),
        "flat gradients": _dealt("w P", w * trained if flattens else 0, shards, w=w, P=trained),
        "float32 gradients": _dealt("4 P", 4 * trained if copies else 0, shards, P=trained),
    }


def _activations(workload: Workload, placement: Placement, *, gpu: bool) -> Figure:
    """What autograd keeps of every token: both norms in float32 and normalized, projections, MLP.

    Each of its experts has a copy of the token for its own, and an answer that the router weighs. In float32
    attention on a GPU has keys and values for every head.
    """
    shape, w, t = workload.architecture, workload.width, placement.tokens_per_pass
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    mlp = shape.inner * shape.experts_per_token
    attended = q if gpu and w == 4 else kv
    layer = w * (4 * shape.hidden + 2 * q + 2 * attended + 4 * mlp) + 8 * shape.hidden
    layer += (4 + w) * (q + kv) * shape.qk_norm
    layer += 2 * w * shape.experts_per_token * shape.hidden * (shape.experts > 1)
    if placement.recomputes:
        kept = shape.layers * w * shape.hidden + layer
        return _bytes(
            "t (layers w d + layer)", t * kept, t=t, layers=shape.layers, w=w, layer=layer, d=shape.hidden
        )
    return _bytes("t layers layer", t * shape.layers * layer, t=t, layers=shape.layers, layer=layer)


def _copies(workload: Workload, placement: Placement, *, gpu: bool) -> Figure:
    """The weights that rank 0 keeps packed on its device; adapters pass through the host unless broadcast."""
    w, p = workload.width, workload.trained
    kept = placement.engines and (placement.broadcast or (gpu and not workload.adapters))
    count = placement.copies if kept else 0
    return _bytes("copies w P of rank 0", count * w * p, copies=count, w=w, P=p)


def _head(workload: Workload, placement: Placement, *, gpu: bool) -> Figure:
    """The chunks of logits, the gradient of the last matrix before it is added, that of the hidden states."""
    shape, w, t = workload.architecture, workload.width, placement.tokens_per_pass
    chunk = min(t, max(CHUNK_TOKENS, CHUNK_LOGITS // shape.vocabulary))
    # Logits in float32, their exponentials where no kernel keeps those to itself, what the products read.
    per_logit = (4 if gpu else 8) + (w if w < 4 else 0)
    gradient = 0 if workload.adapters else w * shape.head
    return _bytes(
        "C V each + 4 t d" if workload.adapters else "C V each + w V d + 4 t d",
        chunk * shape.vocabulary * per_logit + gradient + 4 * t * shape.hidden,
        w=w,
        C=chunk,
        V=shape.vocabulary,
        each=per_logit,
        d=shape.hidden,
        t=t,
    )


def engine_needs(workload: Workload, placement: Placement, machines: Machines, *, context: int) -> Needs:
    """Needs of one GPU of an engine, with its KV cache or room for one response of full length.

    On a GPU the cache is what is left of vLLM's share, unless the recipe says how large it is: vLLM then
    looks at no share.
    """
    shape, w, tp = workload.architecture, workload.width, placement.tensor_parallel
    gpu = machines.device.is_gpu
    device = "cuda" if gpu else "cpu"
    batched = forward_tokens(device, sequences=placement.max_sequences, context=context)
    inner = shape.inner * shape.experts_per_token
    graphs = GRAPHS if gpu else 0
    workspace = batched * w * (4 * shape.hidden + 3 * inner / tp)
    workspace += 12 * placement.max_sequences * shape.vocabulary + graphs
    parts = {
        "weights": _bytes("w P / tp", w * shape.parameters / tp, w=w, P=shape.parameters, tp=tp),
        "workspace": _bytes(
            "tokens w (4 d + 3 f / tp) + 12 sequences V + graphs",
            workspace,
            tokens=batched,
            w=w,
            d=shape.hidden,
            f=inner,
            tp=tp,
            graphs=graphs,
            sequences=placement.max_sequences,
            V=shape.vocabulary,
        ),
        "opponent": _bytes(
            "v P, not shared",
            workload.opponent_width * shape.parameters,
            v=workload.opponent_width,
            P=shape.parameters,
        ),
        "opponent's caches": opponents_caches(workload, placement),
    }
    reserved = _reserved(placement, gpu=gpu)
    cache = (
        {"KV cache": reserved} if reserved else {"one response": one_response(workload, placement, context)}
    )
    parts = {name: part for name, part in (parts | cache).items() if part.value}
    limit = _limit(placement, machines)
    if gpu and placement.shared:
        limit -= CUDA_RESIDUE + _copies(workload, placement, gpu=gpu).value
    if gpu and placement.engine == "vllm" and not reserved:
        share = placement.gpu_share * machines.device.memory  # of all there is, whatever others have of it
        limit = min(share + opponents_caches(workload, placement).value, limit)
    return Needs(role="engine", parts=parts, limit=limit)


def one_response(workload: Workload, placement: Placement, context: int) -> Figure:
    """KV cache of a response of full length, on one GPU of an engine."""
    shape, w, tp = workload.architecture, workload.width, placement.tensor_parallel
    value, kv = context * shape.kv_bytes_on(tp, w), shape.kv_bytes(w)
    return _bytes("context kv / shares", value, context=context, kv=kv, shares=_shares(workload, placement))


def _shares(workload: Workload, placement: Placement) -> int:
    """GPUs of an engine that its KV cache is cut between: a head is copied, never cut."""
    return min(placement.tensor_parallel, workload.architecture.kv_heads)


def opponents_caches(workload: Workload, placement: Placement) -> Figure:
    """KV caches of an opponent's responses under way, as long as the longest, beside vLLM's share."""
    groups = (placement.lag + 1) / max(1, placement.engines)
    at_once = min(placement.max_sequences, workload.opponents * groups)
    kv = workload.architecture.kv_bytes(workload.opponent_width)
    length = workload.prompt_tokens + workload.longest
    return _bytes(
        "opponents (p + L) kv",
        at_once * length * kv,
        opponents=at_once,
        p=workload.prompt_tokens,
        L=workload.longest,
        kv=kv,
    )


def _reserved(placement: Placement, *, gpu: bool) -> Figure | None:
    """The KV cache that an engine has on each GPU whatever is left there; None if it takes what is left."""
    if placement.kv_cache_mib is not None:
        return _bytes(
            "2^20 MiB of engines.kv_cache_mib", placement.kv_cache_mib * 2**20, MiB=placement.kv_cache_mib
        )
    return None if gpu else _bytes("the default on CPU", CPU_KV_CACHE_MIB * 2**20)


def kv_cache(needs: Needs) -> Figure:
    """Bytes of KV cache on one GPU of an engine: what is reserved, or what is left."""
    if reserved := needs.parts.get("KV cache"):
        return reserved
    others = needs.total - needs.parts["one response"].value
    spare = max(0.0, needs.limit - others)
    return _bytes("max(0, limit - others)", spare, limit=needs.limit, others=others)


def slots(cache: Figure, workload: Workload, placement: Placement) -> Figure:
    """B, responses that one engine can generate at once."""
    lengths, p = workload.lengths, workload.prompt_tokens
    context = p + lengths.square / (2 * lengths.mean)
    token = workload.architecture.kv_bytes_on(placement.tensor_parallel, workload.width)
    held = cache.value / token / context
    return Figure(
        value=min(placement.max_sequences, held),
        unit="responses",
        formula="min(sequences, cache / (kv c / shares)), c = p + r2 / (2 r)",
        inputs={
            "sequences": placement.max_sequences,
            "cache": cache.value,
            "kv": workload.architecture.kv_bytes(workload.width),
            "shares": _shares(workload, placement),
            "c": context,
            "p": p,
            "r": lengths.mean,
            "r2": lengths.square,
        },
    )


def _limit(placement: Placement, machines: Machines) -> float:
    if machines.device.is_gpu:
        return machines.device.memory - CUDA_RESIDUE
    return host_memory_bytes() / placement.processes
