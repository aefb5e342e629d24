"""Tiny models and a tokenizer that many tests share; made in a moment, the same every time."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from pit_ray.config.tree import FromScratch
from pit_ray.records import Pairs, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# No time limit for one example: a busy machine would fail tests that have nothing to do with time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHAPE = FromScratch(hidden_size=32, layers=2, heads=2, intermediate_size=48, max_position_embeddings=256)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, without a chat template. Never changed by a test: `Renderer` adds a template only to copies."""
    # Imported here, so that tests without a model do not pay for torch.
    from pit_ray.models.load import train_tokenizer

    return train_tokenizer(["tell anna about the lamp ; ask for the key", "dear anna , i saw the lamp ."], 280)


@pytest.fixture(scope="session")
def new_model(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], PreTrainedModel]:
    """A tiny causal model from a seed."""
    import torch

    from pit_ray.models.load import new_llama

    def make(seed: int) -> PreTrainedModel:
        torch.set_num_threads(1)
        return new_llama(SHAPE, tokenizer, seed).eval()

    return make


@pytest.fixture(scope="session")
def causal(new_model: Callable[[int], PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny causal model."""
    folder = tmp_path_factory.mktemp("causal")
    new_model(1).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def scalar(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny reward model with a head of its own."""
    import torch

    from pit_ray.models.load import load_scalar

    folder = tmp_path_factory.mktemp("scalar")
    load_scalar(causal, torch.float32, new_head_seed=2).save_pretrained(str(folder))
    return folder


@pytest.fixture
def pairs() -> Pairs:
    """Twelve tokenised pairs of many lengths; ids 2 and up, so neither padding nor end."""
    rng = np.random.default_rng(0)

    def column(shortest: int, longest: int) -> Ragged:
        return Ragged.of(rng.integers(2, 270, size=int(rng.integers(shortest, longest))) for _ in range(12))

    return Pairs(np.arange(12), column(1, 9), column(1, 14), column(1, 14))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Host and port of an S3 on the loopback interface: moto's server, which keeps objects as S3 does."""
    from moto.server import ThreadedMotoServer  # not installed where only the package is

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """URIs of a bucket there that is made anew, with credentials in the environment."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    boto3.client("s3", endpoint_url=f"http://{s3}", region_name="us-east-1").create_bucket(Bucket="runs")
    return lambda path: f"s3://runs/{path}?endpoint_override={s3}&scheme=http&region=us-east-1"
