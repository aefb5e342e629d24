"""Where the actors of a plan stand: as Ray puts them, nobody left out, nothing over its limits."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.layout import Node, describe_layout, lay_out, memory_faults
from actors.memory import ModelSize, Need, needs
from actors.plan import Bundle, Plan, plan_actors
from pit_ray.config import load_config
from pit_ray.errors import ConfigError

LLAMA_8B = ModelSize(8_030_000_000, layers=32, hidden=4096, vocabulary=128_264, intermediate=14_336)
RECIPES = {"hh": 1, "summarize": 1, "hh-2-nodes": 2, "hh-8-nodes": 8, "hh-64-nodes": 64}


def gpu_nodes(count: int, gpu_gib: float = 80) -> list[Node]:
    return [Node(f"node/{i}", cpus=96, gpus=8, memory_gib=1152, gpu_gib=gpu_gib) for i in range(count)]


@pytest.mark.parametrize(("recipe", "count"), RECIPES.items())
def test_each_recipe_fits_its_nodes_and_no_fewer(recipe: str, count: int) -> None:
    config, nodes = load_config(recipe), gpu_nodes(count)
    started = time.perf_counter()
    plan = plan_actors(config)
    standing = lay_out(plan, nodes)
    assert memory_faults(nodes, standing, needs(config, LLAMA_8B)) == []
    said = describe_layout(nodes, standing, needs(config, LLAMA_8B))
    assert time.perf_counter() - started < 1.0  # the issue's own bound, some hundred times what it takes
    assert f"learner/0 … {min(8, config.actors.learner.ranks) - 1}" in said or "learner/0" in said
    assert plan.total("GPU") == 8 * count  # no GPU is left idle
    with pytest.raises(ConfigError, match="the actors do not fit"):
        lay_out(plan, gpu_nodes(count - 1))


def test_learners_fill_whole_nodes_and_no_engine_lies_on_two() -> None:
    standing = lay_out(plan_actors(load_config("hh-64-nodes")), gpu_nodes(64))
    learner_nodes = [name for name, bundles in standing.items() if any(b.role == "learner" for b in bundles)]
    assert len(learner_nodes) == 256 / 8
    engines = [b for bundles in standing.values() for b in bundles if b.role == "rollout"]
    assert len(engines) == 112 and {b.gpus for b in engines} == {2.0}


def test_an_8b_model_does_not_fit_gpus_of_40_gib() -> None:
    config, nodes = load_config("hh"), gpu_nodes(1, gpu_gib=40)
    faults = memory_faults(nodes, lay_out(plan_actors(config), nodes), needs(config, LLAMA_8B))
    assert len(faults) == 1
    assert "a learner actor needs" in faults[0] and "raise actors.learner.ranks" in faults[0]
    assert "a reward actor" not in " ".join(faults)


def test_the_memory_of_a_node_is_shared_by_its_actors() -> None:
    config, small = load_config("hh"), [Node("small", cpus=96, gpus=8, memory_gib=100, gpu_gib=80)]
    (fault,) = memory_faults(small, lay_out(plan_actors(config), small), needs(config, LLAMA_8B))
    assert fault.startswith("small has 100 GiB, and learner/0")


def test_an_engine_that_no_node_is_large_enough_for_is_named() -> None:
    plan = plan_actors(load_config("hh", ["actors.rollout.tensor_parallel=16", "actors.learner.ranks=4"]))
    with pytest.raises(ConfigError, match=r"rollout/0 needs .* 16 GPUs on one node.*largest has 8 GPUs"):
        lay_out(plan, gpu_nodes(4))


@given(
    wants=st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0, 2.0])), min_size=1, max_size=20),
    nodes=st.lists(st.tuples(st.integers(1, 16), st.integers(0, 8)), min_size=1, max_size=5),
)
def test_everyone_stands_once_and_no_node_is_overfull(
    wants: list[tuple[int, float]], nodes: list[tuple[int, int]]
) -> None:
    plan = Plan(tuple(Bundle("learner", i, float(cpus), gpus) for i, (cpus, gpus) in enumerate(wants)))
    given_nodes = [Node(str(i), float(cpus), float(gpus)) for i, (cpus, gpus) in enumerate(nodes)]
    try:
        standing = lay_out(plan, given_nodes)
    except ConfigError:
        return
    assert sorted(b.index for bundles in standing.values() for b in bundles) == list(range(len(wants)))
    for node in given_nodes:
        assert sum(b.cpus for b in standing[node.name]) <= node.cpus + 1e-6
        assert sum(b.gpus for b in standing[node.name]) <= node.gpus + 1e-6


def test_nodes_that_stand_alike_are_told_together() -> None:
    nodes = [Node(f"n{i}", 4.0) for i in range(3)]
    plan = Plan(tuple(Bundle("rollout", i, 4.0, 0.0) for i in range(3)))
    said = describe_layout(nodes, lay_out(plan, nodes), {"rollout": Need(2.0)})
    assert said.splitlines() == [
        "  n0 … n2 (3 nodes): 4 of 4 CPUs, 0 of 0 GPUs",
        "    rollout/0 … 2           4 CPU each, 2.0 GiB",
    ]
