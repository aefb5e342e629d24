"""The roles of a run on Ray, as a run has them, without a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from actors.deployment import EngineModel, RayDeployment
from pit_ray.config.load import parse_config
from pit_ray.data.templates import Renderer
from pit_ray.run_folder import RunFolder


@contextmanager
def deployed(
    models: dict[str, Path], root: Path, roles: Sequence[str], model: Mapping[str, object] | None = None,
    sections: Mapping[str, object] | None = None, **actors: object,
) -> Iterator[RayDeployment]:  # fmt: skip
    """`model`: further keys of that section of the configuration; `sections`: further sections; `actors`: keys of that
    one."""
    plain = {
        "run": str(root / "run"),
        "data": {"source": "world:notes", "pairs": 100},
        "model": {"path": str(models["policy"]), "dtype": "float32", **(model or {})},
        "actors": {"address": "local", **actors},
        **(sections or {}),
    }
    config = parse_config(plain, where="benchmark")
    engine = EngineModel(lambda: models["policy"], lambda: Renderer.load(models["policy"]).eos, 512)
    folder = RunFolder(config.run)
    folder.path.mkdir(parents=True, exist_ok=True)
    deployment = RayDeployment(config, folder, engine, models["policy"], print, roles)
    try:
        yield deployment
    finally:
        deployment.close()
