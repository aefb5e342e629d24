"""A Prometheus on the loopback interface that scrapes this machine's Ray, and the queries of our dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._common.utils import get_default_ray_temp_dir

from tests.actors.cluster.head import free_ports

PROGRAM = shutil.which("prometheus")
DASHBOARD = Path(__file__).parents[2] / "clusters" / "grafana.json"


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address, self.began = address, time.time()

    def series(self, query: str) -> list[dict[str, Any]]:
        """What a query gives over the time since the server was started."""
        asked = {"query": query, "start": self.began, "end": time.time(), "step": 1}
        url = f"{self.address}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Scrapes every second whatever Ray's own file of targets names, until the block ends."""
    targets = Path(get_default_ray_temp_dir()) / "prom_metrics_service_discovery.json"
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": "ray", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    (port,) = free_ports(1)
    command = [
        str(PROGRAM), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


def dashboard_queries(run: str) -> dict[str, str]:
    """Title -> query of every panel, as Grafana would ask it for one run."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: target["expr"].replace("$run", run).replace("$__rate_interval", "10s")
        for panel in panels
        for target in panel["targets"]
    }
