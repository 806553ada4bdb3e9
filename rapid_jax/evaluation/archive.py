"""Archives: made-up documents of any length with questions whose answers are known.

An archive is a shuffled pile of paragraphs. A person has up to three short records, told apart by their headers ("Of
Mirel Tavos, of three the second."); towns and objects have a note each; a voyage paragraph says who sailed on which
vessel; filler says nothing. People share first names and surnames, and turn up in the records of others, so that a
reader must bind first name, surname and kind of fact together. Questions come as one fact (`fact`), one fact among four
options (`choice`), everything said about somebody in document order (`dossier`), and questions that only the whole
document answers (`whole`: how many voyages, who sailed first, who sailed last).
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rapid_jax.evaluation import archive_text as text

TASKS = ("fact", "choice", "dossier", "whole")
MIN_TOKENS = 64
_SEPARATOR = "\n\n"
_LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question with its reference answer; with `choices` the task is "choice" and the answer a letter."""

    id: str
    task: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()


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
    """What an archive below a length is made of; `weights` are those of people, notes, voyages and filler."""

    below: float
    num_attributes: int
    num_facts: tuple[int, int]
    num_records: tuple[int, int]
    weights: tuple[int, int, int, int]


# Short archives keep to few kinds of facts: even there several people share a kind and must be told apart.
_SHAPES = (
    _Shape(300, 2, (1, 2), (1, 1), (84, 8, 4, 4)),
    _Shape(600, 4, (2, 4), (1, 2), (65, 12, 8, 15)),
    _Shape(float("inf"), len(text.PERSON_ATTRIBUTES), (6, 8), (2, 3), (50, 12, 10, 28)),
)


@dataclass
class _Subject:
    """A person, town or object with the facts told about it: attribute -> value."""

    name: str
    header: str
    attributes: tuple[text.Attribute, ...]
    facts: dict[str, str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)


@dataclass
class _Slot:
    """A paragraph before the order is known; a person's record gets its ordinal only then."""

    body: str
    owner: _Subject | None = None
    vessel: str = ""
    passenger: str = ""


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
        self.voyages: dict[str, int] = {}
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

    def teacher(self) -> str:
        """Somebody known, or somebody new."""
        if self.people and self.rng.random() < 0.5:
            return self.rng.choice(self.people).name
        return self.new_name()

    def tell(self, subject: _Subject, attributes: list[text.Attribute]) -> str:
        """Sentences that state these attributes, whose values are drawn here."""
        sentences = []
        for attribute in attributes:
            subject.facts[attribute.name] = draw_value(self.rng, attribute, self.teacher)
            sentence = self.rng.choice(attribute.statements)
            sentences.append(sentence.format(name=subject.name, value=subject.facts[attribute.name]))
        return " ".join(sentences)

    def person(self) -> list[_Slot]:
        subject = _Subject(self.new_name(), text.RECORD_HEADER, self.attributes)
        attributes = self.rng.sample(subject.attributes, self.rng.randint(*self.shape.num_facts))
        num_records = self.rng.randint(*self.shape.num_records)
        cuts = sorted(self.rng.sample(range(1, len(attributes)), num_records - 1))
        parts = [attributes[a:b] for a, b in zip([0, *cuts], [*cuts, len(attributes)], strict=True)]
        slots = [_Slot(self.tell(subject, part), subject) for part in parts]
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
        subject = _Subject(name, header, attributes)
        self.others.append(subject)
        return [_Slot(f"{header} {self.tell(subject, self.rng.sample(attributes, len(attributes)))}")]

    def voyages_of_vessel(self) -> list[_Slot]:
        """The voyages of one vessel, or nothing where all vessels have sailed or nobody could."""
        vessel = self.rng.choice(text.VESSELS)
        if vessel in self.voyages or not self.people:
            return []
        number = min(self.rng.randint(1, 4), len(self.people))
        self.voyages[vessel] = number
        passengers = [person.name for person in self.rng.sample(self.people, number)]
        return [
            _Slot(self.rng.choice(text.VOYAGES).format(vessel=vessel, name=name), vessel=vessel, passenger=name)
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
        return sum(self.count(_SEPARATOR + self.paragraph(slot, "first", "three")) for slot in slots)

    def paragraph(self, slot: _Slot, ordinal: str, number: str) -> str:
        if slot.owner is None:
            return slot.body
        return f"{slot.owner.header.format(name=slot.owner.name, ordinal=ordinal, number=number)} {slot.body}"

    def write(self) -> Archive:
        """Fill the budget: people first of all, then a mix, then filler for what is left."""
        used = 0
        makers = (self.person, self.note, self.voyages_of_vessel, self.filler)
        while True:
            maker = self.rng.choices(makers, self.shape.weights)[0] if len(self.people) > 1 else self.person
            before = (len(self.people), len(self.others), dict(self.voyages))
            slots = maker()
            cost = self.cost(slots)
            if used + cost > self.budget:
                del self.people[before[0] :], self.others[before[1] :]
                self.voyages = before[2]
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
        """Number the records in document order and ask every question."""
        total: dict[str, int] = {}
        for slot in self.slots:
            if slot.owner is not None:
                total[slot.owner.name] = total.get(slot.owner.name, 0) + 1
        paragraphs = []
        passengers: dict[str, list[str]] = {}
        for slot in self.slots:
            if slot.owner is None:
                paragraphs.append(slot.body)
            else:
                number = text.NUMBERS[total[slot.owner.name] - 1]
                paragraphs.append(self.paragraph(slot, text.ORDINALS[len(slot.owner.bodies)], number))
                slot.owner.bodies.append(paragraphs[-1])
            if slot.vessel:
                passengers.setdefault(slot.vessel, []).append(slot.passenger)
        drafts = self.fact_questions() + self.dossier_questions() + self.whole_questions(passengers)
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
                drafts.append(("fact", question, answer, ()))
                if attribute.values:
                    options = [answer, *self.rng.sample([v for v in attribute.values if v != answer], 3)]
                    self.rng.shuffle(options)
                    drafts.append(("choice", question, _LETTERS[options.index(answer)], tuple(options)))
        return drafts

    def dossier_questions(self) -> list[tuple]:
        drafts = []
        for person in self.people:
            question = self.rng.choice(text.DOSSIER_QUESTIONS).format(name=person.name)
            drafts.append(("dossier", question, _SEPARATOR.join(person.bodies), ()))
        return drafts

    def whole_questions(self, passengers: dict[str, list[str]]) -> list[tuple]:
        drafts = []
        for vessel, names in passengers.items():
            for questions, answer in (
                (text.VOYAGE_COUNT_QUESTIONS, text.NUMBERS[len(names) - 1]),
                (text.VOYAGE_FIRST_QUESTIONS, names[0]),
                (text.VOYAGE_LAST_QUESTIONS, names[-1]),
            ):
                drafts.append(("whole", self.rng.choice(questions).format(vessel=vessel), answer, ()))
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
    options = zip(_LETTERS, question.choices, strict=False)
    return "\n".join([question.question, *(f"{letter}. {option}" for letter, option in options)])


def write_archive(archive: Archive, directory: Path) -> None:
    """Write document.txt and questions.jsonl (one JSON object a question) into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "document.txt").write_text(archive.document + "\n", encoding="utf-8")
    lines = (json.dumps(asdict(question), ensure_ascii=False) for question in archive.questions)
    (directory / "questions.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read questions.jsonl. Raises FileNotFoundError, or ValueError naming the line that is not a question."""
    if not path.is_file():
        raise FileNotFoundError(f"no questions file at {path}")
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            questions.append(Question(**{**entry, "choices": tuple(entry.get("choices", ()))}))
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a question of an archive ({error})") from error
    return tuple(questions)
