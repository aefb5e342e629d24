"""`pit-ray serve` before anything starts: the key, the address, the run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ray.serve.schema import ProxyStatus, ServeStatus

from actors.serve import running
from actors.serve.commands import check_address, guard_local_ray, read_key, serve
from actors.serve.deploy import RAISED, Address, _label
from actors.serve.limits import digest
from actors.serve.running import introduction
from actors.serve.served_run import check_models, needs_of, open_run
from pit_ray.errors import ConfigError, DataError
from pit_ray.run_folder import RunFolder
from tests.actors.serve.conftest import LIMITS


def test_the_key_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " secret-words\n")
    assert read_key("SOME_KEY") == digest("secret-words")
    assert "SOME_KEY" not in os.environ
    for empty in (None, "", " "):
        if empty is not None:
            monkeypatch.setenv("SOME_KEY", empty)
        with pytest.raises(ConfigError, match="SOME_KEY holds no API key: export SOME_KEY="):
            read_key("SOME_KEY")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_key_it_listens_on_the_loopback_interface_alone(host: str) -> None:
    with pytest.raises(ConfigError, match="--no-key would let everybody ask"):
        check_address(host, 28000, no_key=True)


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on: .*choose another --port"):
            check_address("127.0.0.1", port, no_key=True)
    check_address("127.0.0.1", port, no_key=True)


def test_a_run_that_is_none_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIT_RAY_API_KEY", "key")
    with pytest.raises(DataError, match="no run folder"):
        serve(str(tmp_path / "none"))


@pytest.mark.parametrize(("before", "ours"), [(None, True), ("disabled", True), ("token", False)])
def test_a_ray_of_our_own_asks_for_a_token(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch, before: str | None, ours: bool
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    if before is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", before)
    guard_local_ray(str(finished.path))
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert (len(os.environ.get("RAY_AUTH_TOKEN", "")) == 64) == ours


def test_a_cluster_keeps_its_own(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    guard_local_ray(str(finished.path))
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and "RAY_AUTH_TOKEN" not in os.environ


def test_a_serve_that_others_use_is_left_alone(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def shutdown() -> None:
        raise AssertionError("it would have ended what others serve")

    monkeypatch.setattr(running, "join_ray", lambda config, needs: None)
    monkeypatch.setattr(running, "end", lambda processes: None)  # those of other tests
    monkeypatch.setattr("ray.serve.status", lambda: ServeStatus(proxies={"node": ProxyStatus.HEALTHY}))
    monkeypatch.setattr("ray.serve.shutdown", shutdown)
    with pytest.raises(ConfigError, match="in use on this cluster already"):
        running.serve_run(str(finished.path), ["best_of_n"], "127.0.0.1", 28000, LIMITS, None)


def test_models_that_an_engine_cannot_hold_are_said(finished: RunFolder) -> None:
    context = open_run(str(finished.path))
    needs = needs_of(context, ["best_of_n"])
    check_models(context, needs)
    sampling = context.config.sampling.model_copy(update={"max_new_tokens": 400})
    longer = open_run(str(finished.path))
    object.__setattr__(longer, "config", context.config.model_copy(update={"sampling": sampling}))
    with pytest.raises(ConfigError, match="has 512 positions, and a sequence can take"):
        check_models(longer, needs)


def test_the_introduction_can_be_typed(finished: RunFolder) -> None:
    context = open_run(str(finished.path))
    needs = needs_of(context, ["pit", "best_of_n"])
    said = introduction(context, needs, ["pit", "best_of_n"], Address("::1", 8000), "MY_KEY")
    assert "models: pit, best_of_n, policy" in said and "(2 engines, 2 reward models)" in said
    assert '  curl http://[::1]:8000/v1/chat/completions -H "Authorization: Bearer $MY_KEY"' in said
    assert "Authorization" not in introduction(context, needs, ["pit"], Address("localhost", 8000), None)


def test_deployments_go_by_their_models() -> None:
    model = Path("/runs/one/stages/05-ppo_policy/model")
    assert _label("engine", model, {}) == "engine-ppo_policy"
    assert _label("engine", model, {"engine-ppo_policy": None}) == "engine-ppo_policy-1"
    assert _label("gap", Path("/models/my reward#1"), {}) == "gap-my_reward_1"


def test_what_was_raised_is_found_in_a_traceback() -> None:
    assert RAISED.match("pydantic_core._pydantic_core.ValidationError: 1 validation error")
    assert RAISED.match("KeyError: 'x'") and not RAISED.match("File x, line 3, in Error")
