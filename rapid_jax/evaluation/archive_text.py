"""The words of an archive: made-up names, values, and the sentences that tell and ask about them.

A statement names its subject in full and puts the value after the name, so that a causal language model that reads
from left to right has met the name when it meets the value. Statements about people open with words that belong to one
kind of fact: after a full stop the next word then says which statement follows, and records can be quoted in order.
"""

from dataclasses import dataclass


def _names(onsets: str, endings: str) -> tuple[str, ...]:
    return tuple((onset + ending).capitalize() for onset in onsets.split() for ending in endings.split())


FIRST_NAMES = _names(
    "mi ta lo ve sa ru ne da ki fe bo ja pe yo li ha",
    "rel dan ris mond lka vin thea sper nor zel bran quil lotte dri gan wyn",
)
SURNAMES = _names(
    "bren kol tar ves mor hald sten gra fenn dor lind pryn wick orm zan cal",
    "os aby ard ett ovic umble ister ane ough illo ask edge urra enko ingham ule",
)
TOWNS = _names("har ost wex lun tor ely cra nim", "row mere bury ford holt wick stead moor")
VESSELS = tuple(
    "Kestrel Heron Petrel Gannet Curlew Plover Osprey Merlin Puffin Tern Swift Lapwing Dunlin Avocet Bittern Falcon "
    "Otter Marten Badger Beaver Walrus Narwhal Dolphin Sturgeon Comet Meteor Zephyr Tempest Aurora Eclipse Solstice "
    "Horizon".split()
)

TRADES = tuple(
    "cooper baker weaver smith tanner potter miller glazier mason chandler fletcher saddler tailor brewer carpenter "
    "printer barber shepherd farrier jeweller cobbler dyer sailmaker clockmaker".split()
)
INSTRUMENTS = tuple(
    "oboe viol harp flute lute drum cello bugle zither fiddle organ trumpet banjo clarinet piano tuba bassoon cornet "
    "mandolin guitar whistle accordion tambourine dulcimer".split()
)
ANIMALS = tuple(
    "goat hound cat parrot donkey tortoise ferret pony goose raven rabbit hedgehog mule crow squirrel duck lamb fox "
    "canary monkey lizard toad peacock calf".split()
)
FOODS = tuple(
    "plums bread cheese honey lentils oysters pears beans walnuts soup figs herring porridge apples pickles mushrooms "
    "turnips cherries pancakes barley olives cabbage almonds trout".split()
)
COLOURS = tuple(
    "red blue green yellow purple orange brown black white grey pink crimson violet scarlet indigo turquoise".split()
)
MATERIALS = tuple(
    "brass silver copper wooden tin steel glass golden "
    "leather marble pewter crystal bronze pearl velvet granite".split()
)
THINGS = tuple(
    "compass lantern key bell mirror flask coin chest ring knife clock comb whip mask goblet spoon dice locket buckle "
    "thimble candle hammer kettle needle".split()
)
LANDSCAPES = tuple("moor lake hill marsh river forest cliff bay plain valley island desert".split())
GOODS = tuple("salt wool timber flour grain fish silk rope paper coal wine tea wax linen honey slate".split())

ORDINALS = tuple(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth".split()
)
NUMBERS = tuple(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)

RECORD_HEADER = "Of {name}, of {number} the {ordinal}."


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: how it is told, how it is asked for, and its possible values (empty: made per archive)."""

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    values: tuple[str, ...] = ()


PERSON_ATTRIBUTES = (
    Attribute(
        "trade",
        (
            "By trade {name} is a {value}.",
            "By the old wall {name} works as a {value}.",
            "By the mill {name} earns a living as a {value}.",
            "By the harbour {name} is known as a good {value}.",
        ),
        ("What is the trade of {name}?", "What does {name} work as?", "How does {name} earn a living?"),
        TRADES,
    ),
    Attribute(
        "town",
        (
            "The home of {name} is in {value}.",
            "The old house of {name} was in {value}.",
            "The child {name} grew up in the town of {value}.",
            "The roads carried {name} from {value}.",
        ),
        ("Where was {name} born?", "Which town does {name} come from?", "Where is the home of {name}?"),
        TOWNS,
    ),
    Attribute(
        "instrument",
        (
            "At feasts {name} plays the {value}.",
            "At the fair {name} plays the {value}.",
            "At the inn {name} practises on the {value}.",
            "At low tide {name} took up the {value}.",
        ),
        ("What does {name} play?", "Which instrument does {name} play?", "On what does {name} practise?"),
        INSTRUMENTS,
    ),
    Attribute(
        "animal",
        (
            "Behind the house {name} feeds a {value}.",
            "Behind the wall {name} keeps a {value}.",
            "Behind the mill {name} once saved the life of a {value}.",
            "Behind the cart {name} is followed by a tame {value}.",
        ),
        ("What animal does {name} keep?", "Which animal does {name} feed?", "What is the animal of {name}?"),
        ANIMALS,
    ),
    Attribute(
        "food",
        (
            "For supper {name} asks for {value}.",
            "For years {name} was fond of {value}.",
            "For the winter {name} likes to eat {value}.",
            "For the feasts {name} asks for {value}.",
        ),
        ("What does {name} like to eat?", "What is {name} fond of?", "What does {name} ask for at supper?"),
        FOODS,
    ),
    Attribute(
        "colour",
        (
            "On market day {name} wears a coat of {value}.",
            "On board {name} always dresses in {value}.",
            "On the streets {name} wears {value}.",
            "On the roads {name} dresses in {value}.",
        ),
        ("What colour does {name} wear?", "What colour does {name} like?", "Which is the colour of {name}?"),
        COLOURS,
    ),
    Attribute(
        "object",
        (
            "In a pocket {name} hides a {value}.",
            "In the evening {name} carries a {value}.",
            "In the spring {name} was once given a {value}.",
            "In the house {name} owns a {value}.",
        ),
        ("What does {name} carry?", "What object does {name} own?", "What was {name} once given?"),
    ),
    Attribute(
        "teacher",
        (
            "Before dawn {name} was taught by {value}.",
            "Before the fair {name} learned everything from {value}.",
            "Before the storm {name} was a pupil of {value}.",
            "Before the harvest {name} learned from {value}.",
        ),
        ("Who taught {name}?", "Who was the teacher of {name}?", "From whom did {name} learn?"),
    ),
)

TOWN_ATTRIBUTES = (
    Attribute(
        "landscape",
        (
            "The town of {name} lies by a {value}.",
            "{name} stands near a {value}.",
            "From {name} one looks out over a {value}.",
            "Travellers reach {name} by way of a {value}.",
        ),
        ("What does {name} lie by?", "What does one see from {name}?", "What does the town of {name} stand near?"),
        LANDSCAPES,
    ),
    Attribute(
        "goods",
        (
            "{name} trades in {value}.",
            "The market of {name} deals in {value}.",
            "The wealth of {name} comes from {value}.",
            "Merchants go to {name} to buy {value}.",
        ),
        ("What does {name} trade in?", "What is sold at the market of {name}?", "What do merchants buy in {name}?"),
        GOODS,
    ),
)

OBJECT_ATTRIBUTES = (
    Attribute(
        "place",
        (
            "The {name} is kept in {value}.",
            "The {name} was last seen in {value}.",
            "The {name} lies under lock in {value}.",
            "The {name} was found in {value}.",
        ),
        ("Where is the {name} kept?", "Where was the {name} found?", "In which town is the {name}?"),
        TOWNS,
    ),
    Attribute(
        "maker",
        (
            "The {name} was made by {value}.",
            "The {name} is the work of {value}.",
            "The {name} came from the hands of {value}.",
            "The {name} bears the mark of {value}.",
        ),
        ("Who made the {name}?", "Whose work is the {name}?", "Whose mark is on the {name}?"),
    ),
)

VOYAGES = (
    "Log of the {vessel}, {ordinal}: {name} came on board.",
    "Log of the {vessel}, {ordinal}: {name} sailed at dawn.",
    "Log of the {vessel}, {ordinal}: {name} was the only passenger.",
    "Log of the {vessel}, {ordinal}: {name} went below in a storm.",
)
MOST_VOYAGES = len(ORDINALS) - 1  # of a vessel: a worked answer looks for one more
LOG_ENTRY = "the {vessel}, {ordinal}: {name}"
NOBODY = "nobody"
VOYAGE_LIST_QUESTIONS = (
    "Who sailed on the {vessel}, in order, until nobody is left?",
    "Name the passengers of the {vessel} in order until nobody is left.",
)
VOYAGE_COUNT_QUESTIONS = (
    "How many voyages of the {vessel} are told of?",
    "How many times did the {vessel} go to sea?",
)
VOYAGE_LAST_QUESTIONS = ("Who sailed last on the {vessel}?", "Who is the last passenger of the {vessel}?")

DOSSIER_QUESTIONS = (
    "Give the full dossier on {name}.",
    "Tell everything that is known about {name}.",
    "Write out all the records of {name}.",
)

FILLER_OPENINGS = (
    "That week", "In the spring", "After the storm", "Before dawn", "Toward evening", "At the fair", "All winter",
    "On market day", "In those years", "At low tide", "By the old wall", "Late in autumn",
)  # fmt: skip
FILLER_SUBJECTS = (
    "the wind", "the rain", "a thick fog", "the snow", "the crowd", "the harvest", "the mill wheel", "the town band",
    "the price of candles", "the night watch", "a column of smoke", "the smell of tar", "the talk of the inn",
    "the tide", "the ferry bell", "an empty cart",
)  # fmt: skip
FILLER_PREDICATES = (
    "came and went", "was worse than usual", "gave cause for talk", "surprised no one", "lasted until noon",
    "could be noticed from afar", "kept the children awake", "was soon forgotten", "troubled the council",
    "filled the streets", "stopped without warning", "was written down by the clerk",
)  # fmt: skip
FILLER_ENDINGS = (
    "", " and nobody minded", " while the clerks counted sacks", " as it had the year before", " for the third time",
    ", or so the old people say", ", which the almanac had foretold", " and then the roads dried",
)  # fmt: skip
