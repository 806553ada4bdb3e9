"""What a user holds: Engine, Document, Answer, and the way of a batch of questions from text to answers."""

from rapid_jax.engine.answer import Answer
from rapid_jax.engine.chat import Chat
from rapid_jax.engine.document import Document
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.stream import Stream

__all__ = ["Answer", "Chat", "Document", "Engine", "Stream"]
