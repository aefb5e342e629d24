"""The memory that a run's processes take at their peak, as a pure function of its configuration and its model's size.

Host memory was measured on CPUs (`benchmarks/speed/memory.py`). What is said of GPUs is reckoned by the same formulas,
and nobody has yet measured it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pit_ray.config import Config
from pit_ray.config.training import Optimizer, Ppo
from pit_ray.data.lengths import bridge_length

GIB = 2**30
IMPORTS_GIB = {
    "driver": 0.72, "rollout": 0.59, "reward": 0.55, "reference": 0.55, "learner": 0.56, "supervised": 0.64,
    "recorder": 0.2,
}  # fmt: skip
"""Resident memory of a process of each role before it has a model, as measured on the CPU builds; of the driver to the
end of a run."""
SHIPPED = ("world:", "task:")
"""Model paths of what comes with this package."""
OWN_TOKENIZER_GIB = 0.3
"""Of the recorder, where the tokenizer may be of a class of its own, with which PyTorch is imported."""
ENGINE_WORKSPACE_GIB, SAMPLER_BYTES = 1.2, 28
"""Of an engine on CPUs, beside imports, weights and KV cache: what it takes with any model, and of each sequence that
it works on at once and entry of the vocabulary."""
FIRST_PASS_GIB = {"learner": 0.045, "supervised": 0.09, "reward": 0.075, "reference": 0.075}
"""What a model's first passes bring in on CPUs: code that is loaded when it is called, buffers of the threads, holes in
the heap after passes of many shapes."""
LOADED = 0.5
"""Of the weights, what an engine on CPUs takes beside its own while it takes others, tensor by tensor, and packs
them."""
DEVICE_GIB = 1.0
"""Of a process on a GPU: the CUDA context and the allocator's slack."""
ENGINE_GIB = 4.0
"""What a GPU engine must hold beside weights to be of use: its workspace and a KV cache for a few sequences."""
MAX_SEQUENCES = 256
"""Sequences that an engine works on at once."""
BUCKET = 500_000_000
"""Gradients that DeepSpeed gathers before ranks exchange them (its `reduce_bucket_size`)."""
GATHERED = 1_000_000_000
"""Weights that its ZeRO 3 holds whole at a time (`stage3_max_live_parameters`)."""
UPDATE_LOGITS, PASS_LOGITS = 12, 8
"""Bytes of one response token and one entry of the vocabulary: in an update, float32 log-probabilities and their
gradient before and after the softmax; in a pass without one, logits and log-probabilities."""
WITHOUT_PPO = ("self_evolution", "tripost")
"""Methods whose learning is supervised alone."""


@dataclass(frozen=True)
class ModelSize:
    """What decides how much memory a model takes."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    intermediate: int
    """Width inside the feed-forward layers, which are taken to be gated."""
    trainable: int | None = None
    """Parameters that are learned. None: all."""

    @property
    def learned(self) -> int:
        return self.parameters if self.trainable is None else self.trainable


@dataclass(frozen=True)
class Parts:
    """GiB of one process in one memory, by what they are for."""

    imports: float = 0.0
    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    kv_cache: float = 0.0
    workspace: float = 0.0
    """Of an engine, or what a first pass brings in."""
    activations: float = 0.0
    copies: float = 0.0
    """Of weights on their way: to the engines, into a file."""

    @property
    def total(self) -> float:
        """At the peak. Weights are on their way only between updates, so the larger of the two moments counts."""
        stays = self.imports + self.weights + self.optimizer + self.kv_cache + self.workspace
        return stays + max(self.gradients + self.activations, self.copies)


@dataclass(frozen=True)
class Memory:
    """Of one process: in the machine's memory, and on its GPUs taken together."""

    host: Parts
    gpu: Parts | None = None


@dataclass(frozen=True)
class Need:
    """GiB of one process: in the machine's memory, and on its GPUs taken together."""

    host: float
    gpu: float = 0.0


def needs(config: Config, size: ModelSize) -> dict[str, Need]:
    """What a place of each role needs; `driver` among them. A learner's is also that of a supervised stage's worker."""
    found: dict[str, Need] = {}
    for role, memory in memory_plan(config, size).items():
        place = "learner" if role == "supervised" else role
        before = found.get(place, Need(0.0))
        gpu = memory.gpu.total if memory.gpu else 0.0
        found[place] = Need(max(before.host, round(memory.host.total, 2)), max(before.gpu, round(gpu, 2)))
    return found


def memory_plan(config: Config, size: ModelSize) -> dict[str, Memory]:
    """The memory of a process of each role, `driver` and `supervised` (a worker of Ray Train) among them."""
    actors, width = config.actors, _width(config)
    weights = _gib(size.parameters * width)
    found = {"driver": Memory(_imports("driver")), "supervised": _supervised(config, size)}
    if config.method not in WITHOUT_PPO:
        found["learner"] = _learner(config, size)
        budget, share = actors.scorer.batch_tokens, _response_share(config)
        found["reward"] = _scorer(config, "reward", weights, _gib(_pass_bytes(size, width, budget, 0.0)))
        found["reference"] = _scorer(config, "reference", weights, _gib(_pass_bytes(size, width, budget, share)))
        own_tokenizer = config.model.path is not None and not config.model.path.startswith(SHIPPED)
        found["recorder"] = Memory(Parts(IMPORTS_GIB["recorder"] + (OWN_TOKENIZER_GIB if own_tokenizer else 0.0)))
    found["rollout"] = _rollout(config, size, weights)
    return found


def _rollout(config: Config, size: ModelSize, weights: float) -> Memory:
    rollout = config.actors.rollout
    if rollout.gpus:
        engine = (weights + ENGINE_GIB) / rollout.gpu_memory_utilization
        on_gpu = Parts(DEVICE_GIB, weights, kv_cache=engine - weights)
        return Memory(_imports("rollout", copies=weights), on_gpu)
    # A head that is tied to the embedding is kept packed beside it.
    varying = size.vocabulary * (SAMPLER_BYTES * MAX_SEQUENCES + size.hidden * _width(config))
    workspace, kv = ENGINE_WORKSPACE_GIB + _gib(varying), rollout.kv_cache_gib
    return Memory(_imports("rollout", weights=weights, kv_cache=kv, workspace=workspace, copies=LOADED * weights))


def _scorer(config: Config, role: str, weights: float, activations: float) -> Memory:
    if config.actors.scorer.gpus:
        return Memory(_imports(role, copies=weights), Parts(DEVICE_GIB, weights, activations=activations))
    return Memory(_imports(role, weights=weights, workspace=FIRST_PASS_GIB[role], activations=activations))


def _learner(config: Config, size: ModelSize) -> Memory:
    """A rank of PPO: policy and value model."""
    width, share, work, several = _width(config), _response_share(config), [0.0], False
    recomputed = config.actors.learner.gradient_checkpointing
    for ppo in (config.ppo_policy, config.ppo_improver):
        # An update's micro-batches are cut from a minibatch, those of the passes before it from all samples.
        update = _micro_batch(config, ppo, ppo.rollouts_per_step // ppo.minibatches)
        before = _micro_batch(config, ppo, ppo.rollouts_per_step)
        several |= update == ppo.optimizer.micro_batch_tokens
        work += [_update_bytes(size, width, update, share, 2, recomputed), _pass_bytes(size, width, before, share)]
    return _trained(config, size, "learner", 2, max(work), several)


def _supervised(config: Config, size: ModelSize) -> Memory:
    """A rank of a supervised stage: one model. All stages of a method are taken to have sequences as long as its
    longest."""
    width, lengths, recomputed = _width(config), config.data.lengths, config.actors.learner.gradient_checkpointing
    x, d, y = lengths.prompt.max_tokens, lengths.draft.max_tokens, lengths.response.max_tokens
    bridge = bridge_length(config.model.improve_instruction)
    whole, work, several = x + d + bridge + y, [0.0], False
    for section, sequences in ((config.sft, 1), (config.reward, 2), (config.gap_reward, 4)):
        longest = x + y if sequences == 2 else whole
        tokens = _least(config, section.optimizer, section.batch_size * sequences * longest)
        several |= tokens == section.optimizer.micro_batch_tokens
        if sequences == 1:
            work.append(_update_bytes(size, width, tokens, y / (x + y), 1, recomputed))
        else:  # what the sequences of a pair have in common is computed once
            row = x + 2 * y if sequences == 2 else x + 2 * (d + bridge) + 4 * y
            work.append(_update_bytes(size, width, tokens * row / (sequences * longest), 0.0, 1, recomputed))
    return _trained(config, size, "supervised", 1, max(work), several)


def _trained(config: Config, size: ModelSize, role: str, models: int, work: float, several: bool) -> Memory:
    """A DeepSpeed rank with so many models; rank 0, which also gathers the weights of one on their way out. `several`:
    an update has more than one micro-batch."""
    learner, width = config.actors.learner, _width(config)
    stage, learned, every = learner.zero_stage, models * size.learned, models * size.parameters
    share = 1 / learner.ranks
    weights, gradients = float(every * width), float(learned * width)
    optimizer = float(learned * (12 if width == 2 else 8))
    bucket = min(learned, BUCKET) * width
    if stage == 0:
        gradients += bucket if learner.ranks > 1 else 0
    else:
        optimizer = learned * 12 * share  # it keeps float32 weights of its own
        # Seen, not derived: three buckets (filled, flattened, on their way) beside what is kept.
        gradients = 3 * bucket + gradients * (share if stage > 1 else 1)
    if stage == 3:
        weights = every * width * share + min(every, GATHERED) * width
    whole = _gib(size.parameters * width)
    state = Parts(weights=_gib(weights), gradients=_gib(gradients), optimizer=_gib(optimizer), activations=_gib(work))
    if learner.gpus:
        # A rank loads its models whole before it keeps its share.
        return Memory(_imports(role, copies=models * whole), replace(state, imports=DEVICE_GIB))
    if several and stage == 0:
        # Seen, not derived: gradients take holes of glibc's heap that the next micro-batch's activations had been in.
        state = replace(state, gradients=state.gradients + _gib(learned * width))
    return Memory(replace(state, imports=IMPORTS_GIB[role], workspace=FIRST_PASS_GIB[role], copies=whole))


def _update_bytes(size: ModelSize, width: int, tokens: float, share: float, models: int, recomputed: bool) -> float:
    """Of a micro-batch of an update: what each layer keeps for the backward pass, and the most that comes and goes.

    A Llama layer keeps, a token: each norm's input and normalised input (in float32) and its output; queries, keys,
    values, attention's output twice; of the feed-forward part gate, its activation, up and their product. With gradient
    checkpointing (`recomputed`) every layer keeps its input, and one at a time all of that.
    """
    norms = 2 * (12 if width == 4 else 8)
    layer = (norms + 5 * width) * size.hidden + 4 * width * size.intermediate
    layers, again = size.layers * layer, layer + size.layers * width * size.hidden
    kept, logits = (again if recomputed else layers) * tokens, share * tokens * size.vocabulary
    # The value model's pass comes after the policy's, whose log-probabilities wait; its backward pass is first.
    after = (models - 1) * (kept + 4 * logits)
    return kept + max(after + _pass_bytes(size, width, tokens, 0.0), UPDATE_LOGITS * logits)


def _pass_bytes(size: ModelSize, width: int, tokens: float, share: float) -> float:
    """Of a forward pass that keeps nothing: the widest moment of a layer, or the logits of the share of tokens that
    are responses."""
    return tokens * max(3 * width * (size.hidden + size.intermediate), share * PASS_LOGITS * size.vocabulary)


def _micro_batch(config: Config, ppo: Ppo, samples: int) -> float:
    """Tokens of the largest micro-batch of a rank."""
    lengths, new = config.data.lengths, config.sampling.max_new_tokens
    draft = lengths.draft.max_tokens + bridge_length(config.model.improve_instruction)
    drafts = any(phase.drafts != "none" for phase in ppo.phases)
    return _least(config, ppo.optimizer, samples * (lengths.prompt.max_tokens + drafts * draft + new))


def _least(config: Config, optimizer: Optimizer, tokens: int) -> float:
    return min(optimizer.micro_batch_tokens, tokens / config.actors.learner.ranks)


def _response_share(config: Config) -> float:
    """Of the tokens of sequences as long as they may be, those that are sampled."""
    new = config.sampling.max_new_tokens
    return new / (config.data.lengths.prompt.max_tokens + new)


def _imports(role: str, **parts: float) -> Parts:
    return Parts(IMPORTS_GIB[role], **parts)


def _width(config: Config) -> int:
    """Bytes of a weight."""
    bfloat16 = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and config.actors.learner.gpus > 0)
    return 2 if bfloat16 else 4


def _gib(size: float) -> float:
    return size / GIB
