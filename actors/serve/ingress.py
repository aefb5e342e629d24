"""The deployment that takes requests: it runs improvers, and asks the other deployments for what models write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from actors.serve.answers import Answerer
from actors.serve.app import build_app
from actors.serve.engines import ScorerKey, ServedEngines
from actors.serve.limits import Limits
from actors.serve.served_run import improvers_of, open_run
from actors.serve.service import Service


@serve.ingress()
class Ingress:
    """A process with the API over a run."""

    def __init__(
        self,
        run: str,
        names: Sequence[str],
        limits: Limits,
        engines: Mapping[Path, Any],
        scorers: Mapping[ScorerKey, Any],
        labels: Mapping[str, Any],
    ) -> None:
        """`names` are the improvers, the default first; the mappings hold deployment handles, `labels` all of them by
        the deployments' names."""
        self.run = run
        context = open_run(run)
        served = ServedEngines(engines, scorers)
        answerer = Answerer(context, served, improvers_of(context, served, names))
        self.service = Service(answerer, limits, {name: handle.answers.remote for name, handle in labels.items()})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self.service, Path(self.run).name)
