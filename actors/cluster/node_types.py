"""The machines that clouds rent out, as far as pit-ray knows them: CPUs, memory, GPUs.

From the providers' own pages (AWS EC2 instance types, Google Compute Engine machine families), 2026.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeType:
    """One kind of machine; memory in GiB, of one GPU in GiB as its maker names it."""

    cpus: int
    memory: int
    gpus: int = 0
    gpu: str = ""
    gpu_memory: int = 0


AWS = {
    "m6i.2xlarge": NodeType(8, 32),
    "m6i.4xlarge": NodeType(16, 64),
    "m6i.8xlarge": NodeType(32, 128),
    "m7i.2xlarge": NodeType(8, 32),
    "m7i.4xlarge": NodeType(16, 64),
    "m7i.8xlarge": NodeType(32, 128),
    "r6i.4xlarge": NodeType(16, 128),
    "r6i.8xlarge": NodeType(32, 256),
    "g5.12xlarge": NodeType(48, 192, 4, "A10G", 24),
    "g5.48xlarge": NodeType(192, 768, 8, "A10G", 24),
    "g6.12xlarge": NodeType(48, 192, 4, "L4", 24),
    "g6.48xlarge": NodeType(192, 768, 8, "L4", 24),
    "g6e.12xlarge": NodeType(48, 384, 4, "L40S", 48),
    "g6e.48xlarge": NodeType(192, 1536, 8, "L40S", 48),
    "p4d.24xlarge": NodeType(96, 1152, 8, "A100", 40),
    "p4de.24xlarge": NodeType(96, 1152, 8, "A100", 80),
    "p5.48xlarge": NodeType(192, 2048, 8, "H100", 80),
    "p5e.48xlarge": NodeType(192, 2048, 8, "H200", 141),
    "p5en.48xlarge": NodeType(192, 2048, 8, "H200", 141),
}
GCP = {
    "n2-standard-8": NodeType(8, 32),
    "n2-standard-16": NodeType(16, 64),
    "n2-standard-32": NodeType(32, 128),
    "e2-standard-16": NodeType(16, 64),
    "a2-highgpu-4g": NodeType(48, 340, 4, "A100", 40),
    "a2-highgpu-8g": NodeType(96, 680, 8, "A100", 40),
    "a2-ultragpu-4g": NodeType(48, 680, 4, "A100", 80),
    "a2-ultragpu-8g": NodeType(96, 1360, 8, "A100", 80),
    "a3-highgpu-8g": NodeType(208, 1872, 8, "H100", 80),
}
