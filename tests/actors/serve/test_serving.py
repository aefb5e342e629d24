"""The service for real: Ray Serve, a vLLM engine, and OpenAI's client over the loopback interface."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import psutil
import pytest
import yaml

from actors.improve import improve_requests
from pit_ray.improve import ImproveRequest
from pit_ray.run_folder import RunFolder
from tests.actors.cluster.head import free_ports
from tests.actors.serve.conftest import KEY, MOST

pytestmark = pytest.mark.slow

CONCURRENT, QUEUE = 4, 4
VARIABLE = "SERVICE_KEY"
START_SECONDS = 400
PROMPT = "tell anna about the lamp ; ask for the key"
SAID: Any = [{"role": "user", "content": PROMPT}]


class Service:
    """The command, started in a session of its own."""

    def __init__(self, run: Path) -> None:
        (self.port,) = free_ports(1)
        self.run, self.url, self.log = run, f"http://127.0.0.1:{self.port}", run.with_suffix(".log")
        command = [sys.executable, "-m", "actors.cli", "serve", str(run), "--port", str(self.port), "--improver", "pit"]
        command += ["--max-concurrent", str(CONCURRENT), "--queue", str(QUEUE), "--key-variable", VARIABLE]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                command, cwd=run.parent, env=environment | {VARIABLE: KEY}, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C ends it" not in self.said:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said[-4000:]
            time.sleep(0.2)

    def chat(self, model: str = "pit", **options: Any) -> Any:
        return self.client.chat.completions.create(model=model, messages=options.pop("messages", SAID), **options)

    def metrics(self) -> dict[str, float]:
        lines = self.http.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture(scope="module")
def run(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, with its policy for an improver, so that both names share one engine."""
    copy = tmp_path_factory.mktemp("serving") / "run"
    shutil.copytree(finished.path, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["ready"]["ppo_improver"] = str(RunFolder(copy).model("ppo_policy"))
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Service]:
    service = Service(run)
    try:
        service.wait()
        yield service
    finally:
        with suppress(psutil.NoSuchProcess):
            service.process.send_signal(signal.SIGINT)
            service.process.wait(60)


def test_it_says_what_it_serves(service: Service) -> None:
    assert f"at {service.url}/v1 (1 engines, 1 reward models)" in service.said
    assert "models: pit, policy" in service.said
    assert f"Bearer ${VARIABLE}" in service.said and KEY not in service.said
    assert [model.id for model in service.client.models.list()] == ["pit", "policy"]
    health = service.http.get("/health", headers={"Authorization": ""})
    assert health.status_code == 200 and len(health.json()["engines"]) == 2


def test_a_seed_gives_the_same_answer_whole_and_streamed(service: Service) -> None:
    for model, options in (("policy", {}), ("pit", {"iterations": 2}), ("pit", {})):
        whole = service.chat(model, seed=3, temperature=1.0, extra_body=options)
        chunks = list(
            service.chat(
                model, seed=3, temperature=1.0, stream=True, stream_options={"include_usage": True}, extra_body=options
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert text == whole.choices[0].message.content and whole.model == model
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
        assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens > 0
    other = service.chat("policy", seed=4, temperature=1.0).choices[0].message.content
    assert other != service.chat("policy", seed=3, temperature=1.0).choices[0].message.content


def test_it_says_what_pit_ray_improve_says(service: Service, run: Path) -> None:
    """Which here samples with transformers: an independent engine, at a temperature that leaves no choice."""
    prompts = [PROMPT, "tell ben about the boat ; ask for the train", "tell carla about the coat"]
    drafts = ["dear anna , i saw the lamp .", None, "dear carla ,"]
    requests = [ImproveRequest(prompt, draft) for prompt, draft in zip(prompts, drafts, strict=True)]
    expected = list(improve_requests(str(run), requests, 2, "pit"))
    for request, there in zip(requests, expected, strict=True):
        body = {"prompt": request.prompt, "draft": request.draft, "iterations": 2, "temperature": 0}
        here = service.http.post("/improve", json=body).raise_for_status().json()
        assert here["response"] == there.response
        assert [step["draft"] for step in here["steps"]] == there.drafts[:-1]
        assert [step["gap"] for step in here["steps"]] == pytest.approx(there.gaps, abs=1e-4)
        assert here["calls"]["model"] == 2 + (request.draft is None) and here["tokens"]["prompt"] > 0


def test_what_it_refuses(service: Service) -> None:
    with pytest.raises(openai.BadRequestError, match=r"n = 2"):
        service.chat(n=2)
    with pytest.raises(openai.BadRequestError, match=rf"made for at most {MOST} \(data.lengths.prompt.max_tokens\)"):
        service.chat(messages=[{"role": "user", "content": "lamp " * 500}])
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        service.chat("gpt")
    stranger = openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY + "x", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_many_at_once_share_the_engine_and_too_many_are_refused(service: Service) -> None:
    def ask(seed: int) -> str:
        try:
            return service.chat(seed=seed, temperature=1.0, extra_body={"iterations": 2}).choices[0].message.content
        except openai.RateLimitError as refused:
            assert int(refused.response.headers["retry-after"]) >= 1
            return "refused"

    fits = CONCURRENT + QUEUE
    with ThreadPoolExecutor(2 * fits) as clients:
        together = list(clients.map(ask, range(fits)))
        statuses = Counter(answer == "refused" for answer in clients.map(ask, range(2 * fits)))
    assert "refused" not in together and len(set(together)) > fits // 2
    assert statuses[True] > 0 and statuses[False] >= fits
    assert together == [ask(seed) for seed in range(fits)], "whoever else asks changes no answer"


def test_a_client_that_goes_is_not_worked_for(service: Service) -> None:
    asking = {"prompt": PROMPT, "iterations": 16, "temperature": 1.0}
    with pytest.raises(httpx.ReadTimeout):
        service.http.post("/improve", json=asking, timeout=0.1)
    deadline = time.monotonic() + 20
    while (now := service.metrics())["pit_ray_in_flight"] or not now.get(
        'pit_ray_requests_total{route="/improve",status="499"}'
    ):
        assert time.monotonic() < deadline, now
        time.sleep(0.1)


def test_metrics(service: Service) -> None:
    samples = service.metrics()
    assert samples['pit_ray_requests_total{route="/v1/chat/completions",status="200"}'] > 10
    assert samples['pit_ray_requests_total{route="/v1/chat/completions",status="429"}'] > 0
    assert samples['pit_ray_tokens_total{kind="completion",model="pit"}'] > 0
    assert samples['pit_ray_served_gap_count{model="pit"}'] > 10
    assert service.http.get("/metrics", headers={"Authorization": ""}).status_code == 401


def test_nobody_else_reaches_it(service: Service) -> None:
    """What is open on all interfaces, a port of each deployment where pickles are read, asks for Ray's token."""
    opened = []
    for process in (service.process, *service.process.children(recursive=True)):
        with suppress(psutil.Error):
            listens = [c for c in process.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
            opened += [c.laddr.port for c in listens if not c.laddr.ip.removeprefix("::ffff:").startswith("127.")]
            assert KEY not in process.environ().values() or process.pid == service.process.pid
    assert len(opened) == 3, "engine, reward model and the API's own"
    assert service.port not in opened
    for port in opened:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_it_ends_whole(service: Service) -> None:
    processes = service.process.children(recursive=True)
    assert len(processes) > 10
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0, service.said[-4000:]
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("127.0.0.1", service.port))
