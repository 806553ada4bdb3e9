"""Archives: made-up documents of any length with questions whose answers are known.

An archive is a shuffled pile of paragraphs. A person has up to three short records, told apart by their headers ("Of
Mirel Tavos, of three the second."); towns and objects have a note each; a vessel has up to nineteen numbered lines of
its log, each with a passenger; filler says nothing. People share first names and surnames, and turn up in the records
of others and in logs, so that a reader must bind first name, surname and kind of fact together. Questions come as one
fact (`fact`), one fact among four options (`choice`), everything said about somebody in document order (`dossier`), and
questions that only the whole document answers (`whole`: who sailed on a vessel, in order; how many; who was the last).
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rapid_jax.evaluation import archive_text as text
from rapid_jax.evaluation.benchmarks.files import Record, read_records
from rapid_jax.evaluation.writing import naming, write_text

TASKS = ("fact", "choice", "dossier", "whole")
MIN_TOKENS = 64
CONCLUSION = ". So "  # before an answer that follows its working
_SEPARATOR = "\n\n"
LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question with its reference answer.

    With `choices` the task is "choice" and the answer one of them. `working` is what a model that shows its work writes
    before the answer; it is not scored.
    """

    id: str
    task: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    working: str = ""


@dataclass(frozen=True)
class Archive:
    """A document as paragraphs, in order, and every question that can be asked about it."""

    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]

    @property
    def document(self) -> str:
        return _SEPARATOR.join(self.paragraphs)


@dataclass(frozen=True)
class _Shape:
    """What an archive below a length is made of; `weights` are those of people, notes, vessels and filler."""

    below: float
    num_attributes: int
    num_facts: tuple[int, int]
    num_records: tuple[int, int]
    num_voyages: tuple[int, int]
    weights: tuple[int, int, int, int]


# Short archives keep to few kinds of facts: even there several people share a kind and must be told apart.
_SHAPES = (
    _Shape(300, 2, (1, 2), (1, 1), (1, 3), (76, 8, 12, 4)),
    _Shape(600, 4, (2, 4), (1, 2), (1, 6), (60, 10, 18, 12)),
    _Shape(3000, len(text.PERSON_ATTRIBUTES), (6, 8), (2, 3), (1, text.MOST_VOYAGES), (45, 12, 18, 25)),
    _Shape(float("inf"), len(text.PERSON_ATTRIBUTES), (6, 8), (2, 3), (1, text.MOST_VOYAGES), (50, 12, 10, 28)),
)


@dataclass
class _Subject:
    """A person, town or object with the facts told about it: attribute -> value."""

    name: str
    attributes: tuple[text.Attribute, ...]
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Slot:
    """A paragraph before the order is known; one of a series (the person's or the vessel's name) is numbered then."""

    body: str
    series: str = ""
    passenger: str = ""

    def paragraph(self, index: int, total: int) -> str:
        """The text as member `index`, from 0, of a series of `total`."""
        return self.body.replace("{ordinal}", text.ORDINALS[index]).replace("{number}", text.NUMBERS[total - 1])


def draw_value(rng: random.Random, attribute: text.Attribute, somebody: Callable[[], str]) -> str:
    """A value of an attribute: one of its own, a made object, or somebody's name."""
    if attribute.values:
        return rng.choice(attribute.values)
    if attribute.name == "object":
        return f"{rng.choice(text.MATERIALS)} {rng.choice(text.THINGS)}"
    return somebody()


class _Writer:
    """Grows one archive, subject by subject, until the token budget is met."""

    def __init__(self, rng: random.Random, num_tokens: int, count_tokens: Callable[[str], int]):
        self.rng = rng
        self.budget = num_tokens
        self.count = count_tokens
        self.slots: list[_Slot] = []
        self.people: list[_Subject] = []
        self.others: list[_Subject] = []
        self.vessels: list[str] = []
        self.names: set[str] = set()
        self.shape = next(shape for shape in _SHAPES if num_tokens < shape.below)
        self.attributes = tuple(rng.sample(text.PERSON_ATTRIBUTES, self.shape.num_attributes))

    def new_name(self) -> str:
        """A full name that is not taken; one in three shares a first name or a surname with somebody."""
        while True:
            first, last = self.rng.choice(text.FIRST_NAMES), self.rng.choice(text.SURNAMES)
            if self.people and self.rng.random() < 1 / 3:
                other_first, other_last = self.rng.choice(self.people).name.split()
                first, last = (other_first, last) if self.rng.random() < 0.5 else (first, other_last)
            name = f"{first} {last}"
            if name not in self.names:
                self.names.add(name)
                return name

    def somebody(self) -> str:
        """Somebody known, or somebody new."""
        if self.people and self.rng.random() < 0.5:
            return self.rng.choice(self.people).name
        return self.new_name()

    def tell(self, subject: _Subject, attributes: list[text.Attribute]) -> str:
        """Sentences that state these attributes, whose values are drawn here."""
        sentences = []
        for attribute in attributes:
            subject.facts[attribute.name] = draw_value(self.rng, attribute, self.somebody)
            sentence = self.rng.choice(attribute.statements)
            sentences.append(sentence.format(name=subject.name, value=subject.facts[attribute.name]))
        return " ".join(sentences)

    def person(self) -> list[_Slot]:
        subject = _Subject(self.new_name(), self.attributes)
        attributes = self.rng.sample(subject.attributes, self.rng.randint(*self.shape.num_facts))
        num_records = self.rng.randint(*self.shape.num_records)
        cuts = sorted(self.rng.sample(range(1, len(attributes)), num_records - 1))
        parts = [attributes[a:b] for a, b in zip([0, *cuts], [*cuts, len(attributes)], strict=True)]
        header = text.RECORD_HEADER.format(name=subject.name, number="{number}", ordinal="{ordinal}")
        slots = [_Slot(f"{header} {self.tell(subject, part)}", subject.name) for part in parts]
        self.people.append(subject)
        return slots

    def note(self) -> list[_Slot]:
        """A paragraph about a town or an object, or nothing where all are told."""
        taken = {subject.name for subject in self.others}
        if self.rng.random() < 0.5:
            name, attributes = self.rng.choice(text.TOWNS), text.TOWN_ATTRIBUTES
            header = f"On the town of {name}."
        else:
            name = f"{self.rng.choice(text.MATERIALS)} {self.rng.choice(text.THINGS)}"
            attributes, header = text.OBJECT_ATTRIBUTES, f"On the {name}."
        if name in taken:
            return []
        subject = _Subject(name, attributes)
        self.others.append(subject)
        return [_Slot(f"{header} {self.tell(subject, self.rng.sample(attributes, len(attributes)))}")]

    def log(self) -> list[_Slot]:
        """The log of one vessel, or nothing where it has one."""
        vessel = self.rng.choice(text.VESSELS)
        if vessel in self.vessels:
            return []
        self.vessels.append(vessel)
        passengers = [self.somebody() for _ in range(self.rng.randint(*self.shape.num_voyages))]
        return [
            _Slot(self.rng.choice(text.VOYAGES).format(vessel=vessel, name=name, ordinal="{ordinal}"), vessel, name)
            for name in passengers
        ]

    def filler(self) -> list[_Slot]:
        number = self.rng.randint(1, 2 if self.budget < 500 else 4)
        return [_Slot(" ".join(self.filler_sentence() for _ in range(number)))]

    def filler_sentence(self) -> str:
        parts = (text.FILLER_OPENINGS, text.FILLER_SUBJECTS, text.FILLER_PREDICATES, text.FILLER_ENDINGS)
        opening, subject, predicate, ending = (self.rng.choice(part) for part in parts)
        return f"{opening} {subject} {predicate}{ending}."

    def cost(self, slots: list[_Slot]) -> int:
        return sum(self.count(_SEPARATOR + slot.paragraph(0, len(slots))) for slot in slots)

    def write(self) -> Archive:
        """Fill the budget: people first of all, then a mix, then filler for what is left."""
        used = 0
        makers = (self.person, self.note, self.log, self.filler)
        while True:
            maker = self.rng.choices(makers, self.shape.weights)[0] if len(self.people) > 1 else self.person
            before = (len(self.people), len(self.others))
            slots = maker()
            cost = self.cost(slots)
            if used + cost > self.budget:
                del self.people[before[0] :], self.others[before[1] :]
                break
            self.slots += slots
            used += cost
        while True:
            slot = _Slot(self.filler_sentence())
            cost = self.cost([slot])
            if used + cost > self.budget:
                break
            self.slots.append(slot)
            used += cost
        self.rng.shuffle(self.slots)
        return self.finish()

    def finish(self) -> Archive:
        """Number records and logs in document order and ask every question."""
        series: dict[str, list[_Slot]] = {}
        for slot in self.slots:
            series.setdefault(slot.series, []).append(slot)
        paragraphs = []
        told: dict[str, list[str]] = {name: [] for name in series}
        for slot in self.slots:
            before = told[slot.series]
            paragraphs.append(slot.paragraph(len(before), len(series[slot.series])) if slot.series else slot.body)
            before.append(paragraphs[-1])
        passengers = {name: [slot.passenger for slot in slots] for name, slots in series.items() if slots[0].passenger}
        drafts = self.fact_questions() + self.dossier_questions(told) + self.whole_questions(passengers)
        questions = (Question(f"{task}-{i}", task, *rest) for i, (task, *rest) in enumerate(drafts))
        return Archive(tuple(paragraphs), tuple(questions))

    def fact_questions(self) -> list[tuple]:
        drafts: list[tuple] = []
        for subject in self.people + self.others:
            for attribute in subject.attributes:
                if attribute.name not in subject.facts:
                    continue
                question = self.rng.choice(attribute.questions).format(name=subject.name)
                answer = subject.facts[attribute.name]
                drafts.append(("fact", question, answer))
                if attribute.values:
                    options = [answer, *self.rng.sample([v for v in attribute.values if v != answer], len(LETTERS) - 1)]
                    self.rng.shuffle(options)
                    drafts.append(("choice", question, answer, tuple(options)))
        return drafts

    def dossier_questions(self, told: dict[str, list[str]]) -> list[tuple]:
        drafts = []
        for person in self.people:
            question = self.rng.choice(text.DOSSIER_QUESTIONS).format(name=person.name)
            drafts.append(("dossier", question, _SEPARATOR.join(told[person.name])))
        return drafts

    def whole_questions(self, passengers: dict[str, list[str]]) -> list[tuple]:
        drafts = []
        for vessel, names in passengers.items():
            entries = zip(text.ORDINALS, [*names, text.NOBODY], strict=False)
            listed = "; ".join(text.LOG_ENTRY.format(vessel=vessel, ordinal=o, name=name) for o, name in entries)
            for questions, answer, working in (
                (text.VOYAGE_LIST_QUESTIONS, listed, ""),
                (text.VOYAGE_COUNT_QUESTIONS, text.NUMBERS[len(names) - 1], listed + CONCLUSION),
                (text.VOYAGE_LAST_QUESTIONS, names[-1], listed + CONCLUSION),
            ):
                drafts.append(("whole", self.rng.choice(questions).format(vessel=vessel), answer, (), working))
        return drafts


def make_archive(num_tokens: int, seed: int, count_tokens: Callable[[str], int]) -> Archive:
    """Write an archive of at most `num_tokens` tokens (and nearly as many), the same one for the same seed.

    `count_tokens` gives the number of tokens of a text; it is called once a paragraph. Short archives hold fewer
    facts and records a person. Raises ValueError for a budget too small to hold somebody.
    """
    if num_tokens < MIN_TOKENS:
        raise ValueError(f"an archive needs at least {MIN_TOKENS} tokens, not {num_tokens}")
    return _Writer(random.Random(seed), num_tokens, count_tokens).write()


def with_choices(question: Question) -> str:
    """The question as it is put to a model: the options, if there are any, follow on lines of their own."""
    options = zip(LETTERS, question.choices, strict=False)
    return "\n".join([question.question, *(f"{letter}. {option}" for letter, option in options)])


def write_archive(archive: Archive, directory: Path) -> None:
    """Write document.txt and questions.jsonl (one JSON object a question) into `directory`.

    Raises OSError where one of them cannot be written, as on a full disk; it names the file.
    """
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "document.txt", archive.document + "\n")
    lines = (json.dumps(asdict(question), ensure_ascii=False) for question in archive.questions)
    write_text(directory / "questions.jsonl", "".join(line + "\n" for line in lines))


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read questions.jsonl. Raises FileNotFoundError, or ValueError naming the line that is not a question."""
    if not path.is_file():
        raise FileNotFoundError(f"no questions file at {path}")
    return tuple(map(to_question, read_records(path, keep_bad=True)))


def to_question(record: Record) -> Question:
    """The question of a line. Raises ValueError naming the line."""
    if record.problem:
        raise record.error(f"not a question of an archive ({record.problem})")
    try:
        fields = {**record.fields, "choices": tuple(record.fields.get("choices", ()))}
        question = Question(**fields)
    except TypeError as error:
        raise record.error(f"not a question of an archive ({error})") from None
    texts = (question.id, question.task, question.question, question.answer, *question.choices)
    sound = all(isinstance(text, str) and text.strip() for text in texts) and question.task in TASKS
    sound = sound and isinstance(question.working, str) and bool(question.choices) == (question.task == "choice")
    if sound and question.choices:
        sound = question.answer in question.choices and len(question.choices) <= len(LETTERS)
    if not sound:
        raise record.error("not a question of an archive (a field of the wrong kind)")
    return question
