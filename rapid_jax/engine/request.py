"""Questions that are asked together: about which documents, with which settings, and whether they fit the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.language_model import LanguageModel
from models.plain_text import clean_text
from rapid_jax.config import EngineConfig, Method, SamplingConfig, SpeculationConfig, get_method
from rapid_jax.drafting.makers import maker_of
from rapid_jax.engine.arguments import check_max_chunks, check_texts
from rapid_jax.engine.contexts import KeptTail
from rapid_jax.engine.session import Session
from rapid_jax.hierarchy.setup import make_hierarchy
from rapid_jax.speculation import GAMMAS

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document


@dataclasses.dataclass(frozen=True)
class Request:
    """Questions about documents, and how they are to be answered.

    Attributes:
      documents: what each row's question is about; the same object in every row is read once for all.
      questions: one a row.
      queries: what to retrieve with for each row.
      method, speculation, sampling: how.
      max_chunks: chunks to retrieve; None takes what the config says.
      kept: of a single question, what the turns before it have left of the target's reading; this one is left in its
        place. None for neither.
    """

    documents: Sequence[Document]
    questions: Sequence[str]
    queries: Sequence[str]
    method: Method
    speculation: SpeculationConfig
    sampling: SamplingConfig
    max_chunks: int | None = None
    kept: KeptTail | None = None

    @classmethod
    def of(
        cls,
        config: EngineConfig,
        asked: Sequence[tuple[Document, str]],
        method: str,
        retrieval_queries: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        max_chunks: int | None = None,
    ) -> Request:
        """Questions with an engine's settings.

        Args:
          config: the settings.
          asked: a document and a question a row.
          method: a name in METHODS.
          retrieval_queries: what to retrieve with for each row; None takes the questions.
          overrides: fields of SpeculationConfig and SamplingConfig.
          max_chunks: chunks to retrieve; None takes what the config says.

        Raises:
          ValueError: another number of queries, an unknown method, a bad override.
        """
        if retrieval_queries is not None:
            check_texts("retrieval_queries", retrieval_queries, "query")
            if len(retrieval_queries) != len(asked):
                raise ValueError(
                    f"{len(retrieval_queries)} retrieval queries for {len(asked)} questions; give one each"
                )
        check_max_chunks(max_chunks)
        speculation, sampling = config.overridden(overrides or {})
        documents, questions = zip(*((document, clean_text(question)) for document, question in asked), strict=True)
        queries = questions if retrieval_queries is None else tuple(map(clean_text, retrieval_queries))
        return cls(documents, questions, queries, get_method(method), speculation, sampling, max_chunks)

    @property
    def shared(self) -> Document | None:
        """The document that all rows are about, whatever turns precede their questions; None where they differ."""
        first = self.documents[0].root
        return first if all(document.root is first for document in self.documents) else None


def longest_draft(method: Method, speculation: SpeculationConfig, config: EngineConfig) -> int:
    """Tokens that a step of a method may draft, whichever length is chosen for it."""
    length = maker_of(method).draft_length(speculation, method.hierarchy(config.hierarchy), config.copying)
    return max(length, *GAMMAS) if speculation.choose_gamma and method.drafts_from_passages else length


def check_request(session: Session, request: Request) -> None:
    """Finds what is wrong with a request before anything slow.

    Raises:
      ValueError, FileNotFoundError: an empty question, no room in the target, options that do not go together, a
        database that is not there.
    """
    method = request.method
    if method.retrieves and any(document.is_conversation for document in request.documents):
        raise ValueError(f"method {method.name} retrieves, and a conversation has no document to retrieve from")
    maker_of(method).check(method, session.config, request.speculation)
    if method.looks_up:
        make_hierarchy(method.hierarchy(session.config.hierarchy), session.databases)
    for document, question, query in zip(request.documents, request.questions, request.queries, strict=True):
        tokens = document.prompt(session.target).question(question)
        if method.reads_document:
            sizes = document.num_tokens, len(tokens)
            check_room(session, request, session.target, *sizes, head=len(document.head), talks=document.has_turns)
        if method.retrieves and not query.strip():
            raise ValueError("the retrieval query is empty: retrieval needs its words")


def check_room(
    session: Session,
    request: Request,
    model: LanguageModel,
    context: int,
    question: int,
    *,
    head: int | None = None,
    talks: bool = False,
) -> None:
    """The context, the question, the answer and one draft must fit the model's positions.

    Args:
      session, request, model: who reads what.
      context, question: tokens.
      head: tokens before a document, which no setting shortens; None for passages.
      talks: whether turns of a conversation are part of the question.
    """
    longest = longest_draft(request.method, request.speculation, session.config)
    new = request.sampling.max_new_tokens + longest + 1
    needed, limit = context + question + new, model.config.max_position
    if needed > limit:
        role = "target" if model is session.target else "drafter"
        fits = limit - question - new - (head or 0)
        remedy = f"set max_context_tokens to at most {fits}" if head is not None else "set retrieval.max_chunks lower"
        if fits < 1:
            remedy = "ask a shorter question, or for fewer new tokens"
        if talks:
            remedy = "start the conversation anew, or set max_context_tokens lower"
        raise ValueError(
            f"the {role} would need {needed} positions (context {context}, question {question}, answer and draft "
            f"{new}), it has {limit}: {remedy}"
        )
