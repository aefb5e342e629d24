"""Configuration: one frozen tree (tree.py), read from YAML and dotted overrides (load.py), documented from itself."""

from pit_ray.config.load import load_config
from pit_ray.config.tree import Config

__all__ = ["Config", "load_config"]
