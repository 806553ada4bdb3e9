"""Every setting that a flag can reach, the table of methods, and the embedded default; nothing here needs JAX."""

from rapid_jax.config.chat import ChatConfig
from rapid_jax.config.copying import CopyingConfig
from rapid_jax.config.engine import EngineConfig
from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.config.methods import METHODS, Method, get_method
from rapid_jax.config.retrieval import RetrievalConfig
from rapid_jax.config.sampling import SamplingConfig
from rapid_jax.config.speculation import SpeculationConfig

__all__ = [
    "METHODS",
    "ChatConfig",
    "CopyingConfig",
    "EngineConfig",
    "HierarchyConfig",
    "Method",
    "RetrievalConfig",
    "SamplingConfig",
    "SpeculationConfig",
    "get_method",
]
