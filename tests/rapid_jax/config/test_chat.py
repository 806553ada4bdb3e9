"""Settings of the chat template: JSON arguments, a day, and what is refused of both."""

import datetime

import pytest

from rapid_jax.config import ChatConfig, EngineConfig


def test_arguments_are_json_or_a_mapping():
    """A flag gives a string, Python a mapping; what is recorded is JSON either way."""
    given = ChatConfig(arguments='{"enable_thinking": false, "tools": [{"name": "x"}]}')
    assert given.variables() == {"enable_thinking": False, "tools": [{"name": "x"}]}
    assert ChatConfig(arguments=given.variables()) == given
    assert ChatConfig().variables() == ChatConfig(arguments={}).variables() == {}
    config = EngineConfig.from_mapping({"chat": {"arguments": {"enable_thinking": False}}})
    assert config.chat.variables() == {"enable_thinking": False}
    assert EngineConfig.from_mapping(config.to_dict()) == config


@pytest.mark.parametrize(
    "field, value, wrong",
    [
        ("arguments", "enable_thinking=false", "chat.arguments must be a JSON object"),
        ("arguments", "[1]", "chat.arguments must be a JSON object"),
        ("arguments", "{", "chat.arguments must be a JSON object"),
        ("arguments", '{"a": NaN}', "NaN is no JSON"),
        ("arguments", '{"a": 1, "a": 2}', "a name stands twice"),
        ("arguments", '{"a b": 1}', "'a b' cannot be the name of an argument"),
        ("arguments", "[" * 100000, "chat.arguments must be a JSON object"),
        ("arguments", 3, "chat.arguments must be a JSON object"),
        ("arguments", {"a": object()}, "chat.arguments must hold what JSON can hold"),
        ("date", "26 Jul 2024", "chat.date must be a day such as 2024-07-26"),
        ("date", "2024-02-30", "chat.date must be a day such as 2024-07-26"),
        ("date", "20240726", "chat.date must be a day such as 2024-07-26"),
        ("date", "2024-07-26T10:00", "chat.date must be a day such as 2024-07-26"),
        ("date", 20240726, "chat.date must be a day such as 2024-07-26"),
        ("special_tokens_in_text", "yes", "chat.special_tokens_in_text must be True or False"),
    ],
)
def test_bad_values_end_in_one_line(field, value, wrong):
    with pytest.raises(ValueError, match=wrong) as caught:
        ChatConfig(**{field: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_date_is_given_once():
    """A day that is set stays; none becomes today's."""
    assert ChatConfig(date="2024-07-26").dated().date == "2024-07-26"
    day = datetime.date.fromisoformat(ChatConfig().dated().date)
    assert abs((day - datetime.date.today()).days) <= 1
