"""Where each token of an answer came from, and a page that shows it."""

from rapid_jax.tracing.page import page
from rapid_jax.tracing.trace import Trace, TracedToken, TraceStep, trace_of

__all__ = ["Trace", "TraceStep", "TracedToken", "page", "trace_of"]
