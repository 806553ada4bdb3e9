"""What a user holds: Engine, Document, Answer, and the way of a batch of questions from text to answers."""

from rapid_jax.engine.answer import Answer
from rapid_jax.engine.document import Document, Stream
from rapid_jax.engine.engine import Engine

__all__ = ["Answer", "Document", "Engine", "Stream"]
