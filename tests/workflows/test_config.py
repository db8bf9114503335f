"""A configuration says exactly what runs; whatever it does not know is an error with a hint."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.core.errors import ConfigError
from precise_shield.workflows.base.config import Config, commented, load_config, parse_config

LEAST = "model: {path: sandbox}\ndata: {sources: [{source: sandbox}]}\n"
SHIPPED = [
    *sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")),
    *sorted((Path(__file__).parents[2] / "src/precise_shield/workflows/demos").glob("*.yaml")),
]


def test_there_are_shipped_configurations():
    assert len(SHIPPED) >= 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_survives_its_own_comments(path):
    config = load_config(path)
    assert parse_config(commented(config)) == config


def test_every_key_has_a_sentence_of_its_own():
    text = commented(parse_config(LEAST)).splitlines()
    keys = [
        i for i, line in enumerate(text) if ":" in line and not line.lstrip().startswith(("#", "-"))
    ]
    bare = [
        text[i]
        for i in keys
        if not text[i - 1].lstrip().startswith("# ") or len(text[i - 1].split()) < 3
    ]
    assert not bare
    assert len(keys) > 40


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["evaluate.audit=true"],
            "'evaluate.audit_bits' rounds weights, and 'model.quantise: 4bit'",
        ),
        (["align.arms=[full]", "align.full=all"], "'align.full: all' trains every parameter"),
    ],
)
def test_keys_that_cannot_go_together_are_refused_before_anything_is_loaded(changes, sentence):
    with pytest.raises(ConfigError) as error:
        parse_config(LEAST, [*changes, "model.quantise=4bit"])
    assert sentence in str(error.value)
    parse_config(LEAST, [*changes, "model.quantise=none"])
    parse_config(LEAST, ["evaluate.audit=true", "evaluate.audit_bits=[]", "model.quantise=4bit"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("identify.postion=last_prompt", "unknown key 'identify.postion'. Did you mean 'position'"),
        ("idntify.p=1", "unknown key 'idntify'. Did you mean 'identify'"),
        ("identify.p=0", "'identify.p': input should be greater than 0"),
        ("identify.position=middle", "'identify.position'"),
        ("align.zero_shot=[{nam: x}]", "unknown key 'align.zero_shot.0.nam'. Did you mean 'name'"),
        ("data.sources=[]", "'data.sources'"),
        ("evaluate.max_new_tokens=many", "'evaluate.max_new_tokens'"),
        ("model.path.deeper=1", "'path' is a value, not a section"),
        ("nonsense", "must look like"),
    ],
)  # fmt: skip
def test_wrong_keys_and_values_are_named(change, sentence):
    with pytest.raises(ConfigError) as error:
        parse_config(LEAST, [change])
    assert sentence in str(error.value)


def test_changes_reach_into_sections_and_lists():
    config = parse_config(
        LEAST, ["align.rank=4", "data.sources.0.limit=3", "data.languages=[en, fr]"]
    )
    assert (config.align.rank, config.data.sources[0].limit, config.data.languages) == (
        4,
        3,
        ["en", "fr"],
    )


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "data", "sources", "path", "p", "identify"]),
                x,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_whatever_yaml_says_it_is_a_configuration_or_one_error(value):
    with contextlib.suppress(ConfigError):  # any other error fails the test
        assert isinstance(parse_config(yaml.safe_dump(value)), Config)


def test_norwegian_is_a_language_and_on_is_a_word():
    config = parse_config(LEAST, ["data.languages=[en, no]", "explain.headroom={on: false}"])
    assert config.data.languages == ["en", "no"]
    assert config.explain.headroom.on is False
    assert parse_config(commented(config)) == config
