"""Every field is checked once, when a config is made, with one line that names the field and what would be right."""

import dataclasses
import json
import math

import pytest

from models.fields import shown
from rapid_jax.config import EngineConfig, HierarchyConfig, RetrievalConfig, SamplingConfig, SpeculationConfig
from rapid_jax.config.evaluation import EvaluationConfig

BAD = [
    (SpeculationConfig, "gamma", 0, "gamma must be at least 1 token, got 0"),
    (SpeculationConfig, "gamma", 2.5, "gamma must be at least 1"),
    (SpeculationConfig, "gamma", True, "gamma must be at least 1"),
    (SpeculationConfig, "eta", -0.5, "eta must be a number of at least 0, got -0.5"),
    (SpeculationConfig, "eta", float("nan"), "eta must be"),
    (SpeculationConfig, "eta", float("inf"), "eta must be"),
    (SpeculationConfig, "eta", "10", "eta must be"),
    (SpeculationConfig, "tail", "head", "tail must be one of teacher, augmented, got 'head'"),
    (SpeculationConfig, "residual", "rapids", "residual must be one of rapid, exact, got 'rapids'"),
    (SpeculationConfig, "alpha", 1.5, r"alpha must be in \[0, 1\], got 1.5"),
    (SpeculationConfig, "early_stop", 1, "early_stop must be True or False, got 1"),
    (SpeculationConfig, "stop_threshold", 1.1, r"stop_threshold must be in \[0, 1\], got 1.1"),
    (SpeculationConfig, "stop_threshold", True, "stop_threshold must be in"),
    (SpeculationConfig, "stop_confidence", 1.5, r"stop_confidence must be in \[0, 1\], got 1.5"),
    (SpeculationConfig, "stop_confidence", "0.1", "stop_confidence must be in"),
    (SpeculationConfig, "first_candidates", 0, "first_candidates must be at least 1 token, got 0"),
    (SpeculationConfig, "sinks", 0, "sinks must be at least 1 token, got 0"),
    (SpeculationConfig, "page_size", 0, "page_size must be at least 1 token, got 0"),
    (SpeculationConfig, "page_budget", 1.5, "page_budget must be at least 1 token, got 1.5"),
    (SpeculationConfig, "page_renewal", 0, "page_renewal must be at least 1 step, got 0"),
    (SpeculationConfig, "window", 10, "window must be more tokens than a draft's 10, got 10"),
    (SpeculationConfig, "first_candidates", 1.5, "first_candidates must be at least 1 token"),
    (SpeculationConfig, "first_candidates", 3, "first_candidates 3 needs residual exact .or eta 0., got"),
    (SamplingConfig, "temperature", -1, "temperature must be 0 .greedy. or at least 1e-6, got -1"),
    (SamplingConfig, "temperature", 1e-9, "temperature must be 0"),
    (SamplingConfig, "temperature", None, "temperature must be 0"),
    (SamplingConfig, "top_k", -1, "top_k must be 0 .off. or a positive number, got -1"),
    (SamplingConfig, "top_k", 1.0, "top_k must be 0"),
    (SamplingConfig, "top_p", 0, r"top_p must be in \(0, 1\], got 0"),
    (SamplingConfig, "top_p", 1.01, "top_p must be in"),
    (SamplingConfig, "max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
    (SamplingConfig, "max_new_tokens", "9", "max_new_tokens must be at least 1"),
    (SamplingConfig, "seed", -1, r"seed must be in \[0, 2\*\*32\), got -1"),
    (SamplingConfig, "seed", 2**32, "seed must be in"),
    (SamplingConfig, "stop", ("",), "stop must be a tuple of strings that are not empty"),
    (SamplingConfig, "stop", "END", "stop must be a tuple of strings"),
    (SamplingConfig, "stop", (3,), "stop must be a tuple of strings"),
    (EngineConfig, "target", 3, "target must be a string, got 3"),
    (EngineConfig, "drafter", None, "drafter must be a string, got None"),
    (EngineConfig, "dtype", "int4", "dtype must be bfloat16 or float32 .or empty., got 'int4'"),
    (EngineConfig, "weights", "int3", "weights must be int8 or int4 .or empty., got 'int3'"),
    (EngineConfig, "drafter_weights", True, "drafter_weights must be int8 or int4 .or empty., got True"),
    (EngineConfig, "kv", "fp8", "kv must be int8 or int4 or planes .or empty., got 'fp8'"),
    (EngineConfig, "mesh", (1, 2), "mesh must be three positive numbers .data, context, model."),
    (EngineConfig, "mesh", (1, 0, 2), "mesh must be three positive numbers"),
    (EngineConfig, "mesh", 8, "mesh must be three positive numbers"),
    (EngineConfig, "prefill_chunk", 1000, "prefill_chunk must be a power of two of at least 32 tokens, got 1000"),
    (EngineConfig, "prefill_chunk", 16, "prefill_chunk must be a power of two"),
    (EngineConfig, "burst_steps", 0, "burst_steps must be at least 1, got 0"),
    (EngineConfig, "max_context_tokens", -1, "max_context_tokens must be 0 .the model's limit. or positive, got -1"),
    (EngineConfig, "truncation", "left", "truncation must be one of middle, error, got 'left'"),
    (EngineConfig, "prompt", "{question}", "prompt must hold {document} once, then {question} once"),
    (EngineConfig, "prompt", "{question} {document}", "prompt must hold"),
    (EngineConfig, "prompt", "{document} {question} {question}", "prompt must hold"),
    (EngineConfig, "prompt", 5, "prompt must be a string"),
    (EngineConfig, "drafter_prompt", "{question}", "drafter_prompt must hold"),
    (EngineConfig, "drafter_prompt", 5, "drafter_prompt must be a string"),
    (SamplingConfig, "from_checkpoint", ("top_q",), "from_checkpoint must be names of temperature, top_k, top_p"),
    (SamplingConfig, "from_checkpoint", True, "from_checkpoint must be names of temperature"),
    (EvaluationConfig, "retrieval_query", "answer", "retrieval_query must be one of question, question_and_choices"),
    (EvaluationConfig, "passages_prompt", None, "passages_prompt must be one of document, passages"),
    (EvaluationConfig, "longbench_answer", ["rapid"], "longbench_answer must be one of benchmark, rapid"),
    (HierarchyConfig, "databases", (), "databases must be different names of copies, history, context, model, statis"),
    (HierarchyConfig, "databases", ("context", "context"), "databases must be different names"),
    (HierarchyConfig, "databases", ("corpus",), r"at least one, got \('corpus',\)"),
    (HierarchyConfig, "databases", "context", "databases must be different names"),
    (HierarchyConfig, "candidates", 0, "candidates must be a whole number of at least 1, got 0"),
    (HierarchyConfig, "length", 1.5, "length must be a whole number"),
    (HierarchyConfig, "ngram", 1, "ngram must be a whole number of at least 2, got 1"),
    (HierarchyConfig, "values", True, "values must be a whole number"),
    (HierarchyConfig, "window", -1, "window must be a whole number of at least 0, got -1"),
    (HierarchyConfig, "match", 0, "match must be a whole number of at least 1, got 0"),
    (HierarchyConfig, "min_match", 4, "match must be a whole number of at least 4, got 3"),
    (HierarchyConfig, "device_bytes", -1, "device_bytes must be"),
    (HierarchyConfig, "model_database", None, "model_database must be a directory, got None"),
    (SpeculationConfig, "eta", 1e39, r"eta must be at most 1e\+06 .the paper's largest value is 50., got 1e\+39"),
    (
        SpeculationConfig,
        "eta",
        1e-300,
        "eta must be 0 or at least 1.2e-38, the smallest number that float32 holds, got 1e-300",
    ),
    (SpeculationConfig, "alpha", 1e-40, "alpha must be 0 or at least 1.2e-38"),
    (SpeculationConfig, "alpha", float("nan"), r"alpha must be in \[0, 1\], got nan"),
    (SpeculationConfig, "stop_threshold", 5e-324, "stop_threshold must be 0 or at least 1.2e-38"),
    (SpeculationConfig, "expected_acceptance", 1e-300, "expected_acceptance must be 0 or at least 1.2e-38"),
    (SamplingConfig, "temperature", 1e39, r"temperature must be at most 1e\+06 .all tokens are equally likely there."),
    (SamplingConfig, "temperature", float("inf"), r"temperature must be at most 1e\+06"),
    (SamplingConfig, "temperature", float("nan"), "temperature must be 0 .greedy. or at least 1e-6, got nan"),
    (SamplingConfig, "temperature", 10**400, r"temperature must be at most 1e\+06"),
    (
        SamplingConfig,
        "top_p",
        1e-300,
        "top_p must be at least 1.2e-38, the smallest number that float32 holds, got 1e-300",
    ),
    (SamplingConfig, "top_p", float("nan"), r"top_p must be in \(0, 1\], got nan"),
    (
        SamplingConfig,
        "top_k",
        2**31,
        "top_k must be at most 16,777,216 tokens .no vocabulary has more., got 2147483648",
    ),
    (
        SamplingConfig,
        "max_new_tokens",
        10**18,
        "max_new_tokens must be at most 16,777,216 tokens .no model has more positions.",
    ),
    (SamplingConfig, "max_new_tokens", 10**5000, "max_new_tokens must be at most .* got an integer of 16610 bits"),
    (SamplingConfig, "stop", ("a",) * 65, "stop must be at most 64 strings of at most 1,024 characters each, got 65"),
    (SamplingConfig, "stop", ("a" * 1025,), "stop must be at most 64 strings .* got 1 of up to 1,025"),
    (
        SpeculationConfig,
        "gamma",
        10**18,
        "gamma must be at most 4,096 tokens .a verification reads all of them., got 10",
    ),
    (
        SpeculationConfig,
        "first_candidates",
        10**18,
        "first_candidates must be at most 256 tokens .each is compiled into the step.",
    ),
    (SpeculationConfig, "sinks", 10**18, "sinks must be at most 4,096 tokens .they are copied; 4 are usual."),
    (SpeculationConfig, "page_size", 10**18, "page_size must be at most 4,096 tokens .16 to 64 are usual."),
    (SpeculationConfig, "page_budget", 10**18, "page_budget must be at most 16,777,216 tokens"),
    (SpeculationConfig, "page_renewal", 10**18, "page_renewal must be at most 16,777,216 steps"),
    (SpeculationConfig, "window", 10**18, "window must be at most 16,777,216 tokens .no model has more positions."),
    (EngineConfig, "prefill_chunk", 2**60, "prefill_chunk must be at most 16,777,216 tokens"),
    (EngineConfig, "burst_steps", 10**18, "burst_steps must be at most 1,048,576 .no answer takes more."),
    (EngineConfig, "max_context_tokens", 10**18, "max_context_tokens must be at most 16,777,216 tokens"),
    (
        EngineConfig,
        "mesh",
        (10**18, 1, 1),
        "mesh must be of at most 1,048,576 devices, got .1000000000000000000, 1, 1.",
    ),
    (EngineConfig, "mesh", (2**16, 2**16, 2**32), "mesh must be of at most 1,048,576 devices"),
    (EngineConfig, "drafter_mesh", (1, 1, 10**18), "drafter_mesh must be of at most 1,048,576 devices"),
    (EngineConfig, "drafter_mesh", None, "drafter_mesh must be three positive numbers"),
    (EngineConfig, "sampling", {"top_k": 3}, "sampling must be a SamplingConfig, got {'top_k': 3}"),
    (EngineConfig, "speculation", None, "speculation must be a SpeculationConfig, got None"),
    (EngineConfig, "dtype", ["float32"], "dtype must be bfloat16 or float32"),
    (HierarchyConfig, "databases", ([],), r"databases must be different names of .*, got \(\[\],\)"),
    (HierarchyConfig, "databases", (0,), "databases must be different names"),
    (HierarchyConfig, "databases", 0, "databases must be different names"),
    (HierarchyConfig, "candidates", 10**18, "candidates must be at most 256 .each is compiled into the step."),
    (HierarchyConfig, "length", 10**18, "length must be at most 4,096 .a verification reads all of them."),
    (HierarchyConfig, "ngram", 10**18, "ngram must be at most 64"),
    (HierarchyConfig, "values", 10**18, "values must be at most 1,024"),
    (HierarchyConfig, "match", 10**18, "match must be at most 64 .each is"),
    (HierarchyConfig, "min_match", 10**18, "min_match must be at most 64"),
    (HierarchyConfig, "window", 10**18, "window must be at most 4,096 .a verification"),
    (
        HierarchyConfig,
        "device_bytes",
        2**50 + 1,
        "device_bytes must be at most 1,125,899,906,842,624 .no device has a pebibyte.",
    ),
    (RetrievalConfig, "embedder", "bm25", "unknown embedder 'bm25'"),
    (RetrievalConfig, "chunk_tokens", 3, "chunk_tokens must be at least 16"),
    (RetrievalConfig, "threshold", 2.0, "threshold must be a cosine"),
    (RetrievalConfig, "max_chunks", 0, "max_chunks must be at least 1"),
]


@pytest.mark.parametrize("kind, field, value, message", BAD, ids=[f"{f}={shown(v)}"[:60] for _, f, v, _ in BAD])
def test_a_bad_value_is_refused_in_one_line(kind, field, value, message):
    """Before anything is loaded; the line names the field and the value."""
    with pytest.raises(ValueError, match=message) as error:
        kind(**{field: value})
    assert "\n" not in str(error.value)


def test_candidates_and_the_lookahead_window_fit_one_verification_together():
    """Each size alone is allowed, all of them together would make a mask of 80,000 x 80,000 tokens."""
    with pytest.raises(ValueError, match=r"must be at most 4,096 rows of a verification, got 81664$"):
        HierarchyConfig(candidates=256, length=256, ngram=64, window=256)
    assert HierarchyConfig(candidates=16, length=256, window=0).length == 256


def numeric_fields():
    """Every field of every config whose default is a number, and True or False where that is what it takes."""
    for kind in (EngineConfig, HierarchyConfig, RetrievalConfig, SamplingConfig, SpeculationConfig):
        for field in dataclasses.fields(kind):
            if isinstance(field.default, (int, float)):
                yield pytest.param(kind, field.name, id=field.name)


@pytest.mark.parametrize("kind, name", list(numeric_fields()))
@pytest.mark.parametrize(
    "value", [10**18, -(10**18), 10**400, 10**5000, 1e39, -1e39, 1e-300, math.nan, math.inf, -math.inf, "1", None, [1], {}],
    ids=lambda value: repr(value) if not isinstance(value, int) else f"{'-' * (value < 0)}2**{value.bit_length()}",
)  # fmt: skip
def test_no_number_is_without_bounds(kind, name, value):
    """A size that overflows int32, or a number that float32 cannot hold, ends here and not in a hang or in token 0."""
    with pytest.raises(ValueError, match=rf"^{name} must be ") as error:
        kind(**{name: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "kind, fields",
    [
        (SpeculationConfig, dict(gamma=1, eta=0, tail="augmented", residual="exact", alpha=0)),
        (SpeculationConfig, dict(alpha=1.0, eta=50)),
        (SpeculationConfig, dict(early_stop=True, stop_threshold=0, first_candidates=3, eta=0, residual="rapid")),
        (SpeculationConfig, dict(early_stop=True, stop_threshold=1, first_candidates=2, eta=5, residual="exact")),
        (
            SamplingConfig,
            dict(temperature=1e-6, top_k=1, top_p=1e-9, max_new_tokens=1, seed=2**32 - 1, stop=("a", "\n")),
        ),
        (
            EngineConfig,
            dict(dtype="bfloat16", mesh=(2, 1, 4), prefill_chunk=32, truncation="error", max_context_tokens=1),
        ),
        (EngineConfig, dict(prompt="{document}{question}")),
    ],
)
def test_values_at_the_edge_are_taken(kind, fields):
    """The limits themselves are valid."""
    config = kind(**fields)
    assert all(getattr(config, name) == value for name, value in fields.items())


def test_a_config_survives_json_and_back():
    """Reports hold the settings of a run; a run must be repeatable from them."""
    config = EngineConfig(
        target="somewhere",
        mesh=(2, 1, 4),
        retrieval=RetrievalConfig(max_chunks=3, threshold=0.25),
        speculation=SpeculationConfig(gamma=3, eta=5.0),
        sampling=SamplingConfig(stop=("END", "\n\n"), temperature=0.7),
    )
    assert EngineConfig.from_mapping(json.loads(json.dumps(config.to_dict()))) == config


def test_absent_fields_keep_their_defaults():
    """A config file names only what it changes."""
    assert EngineConfig.from_mapping({}) == EngineConfig()
    changed = EngineConfig.from_mapping({"sampling": {"top_k": 5}, "burst_steps": 2})
    assert changed == dataclasses.replace(EngineConfig(), sampling=SamplingConfig(top_k=5), burst_steps=2)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"targte": "x"}, "unknown config field targte; known: target, drafter"),
        ({"speculation": {"gama": 3}}, "unknown config field speculation.gama; known: speculation.tail"),
        ({"sampling": {"temp": 1}}, "unknown config field sampling.temp; known: sampling.temperature"),
        ({"retrieval": {"k": 1}}, "unknown config field retrieval.k; known: retrieval.embedder"),
        ({"sampling": 3}, "sampling must hold fields of its own, got 3"),
        ({"speculation": {"gamma": 0}}, "gamma must be at least 1"),
    ],
)
def test_a_bad_mapping_is_refused_in_one_line(values, message):
    """A typing error must not leave the default in force silently."""
    with pytest.raises(ValueError, match=message) as error:
        EngineConfig.from_mapping(values)
    assert "\n" not in str(error.value)


def test_configs_are_frozen():
    """They are checked once; a later change would not be."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineConfig().burst_steps = 0
