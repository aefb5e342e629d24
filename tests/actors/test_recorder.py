"""The recorder's process."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from pit_ray.data.templates import Renderer

CODE = """
import sys
from pathlib import Path
import actors.recorder
from pit_ray.data.templates import Renderer
Renderer.load(Path(sys.argv[1]))
sys.exit("torch" in sys.modules)
"""


def test_it_reads_and_judges_without_pytorch(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    Renderer(copy.deepcopy(tokenizer), "improve").save(tmp_path)
    assert subprocess.run([sys.executable, "-c", CODE, str(tmp_path)]).returncode == 0
