"""Every language with refusal wordings can be asked to repeat, and for what nobody can do."""

import pytest

from precise_shield.data.abilities import abilities
from precise_shield.data.refusals import languages


@pytest.mark.parametrize("language", languages())
def test_every_language_has_them(language):
    found = abilities(language)
    assert found.repeat.count("{text}") == 1
    assert len(found.inability) == 4
    prompts, apologies = zip(*found.inability, strict=True)
    assert len({*prompts, *apologies}) == 8
    assert all(text.strip() == text for text in (*prompts, *apologies))


def test_a_language_without_wordings_has_none_and_tags_find_their_base():
    assert abilities("tlh") is None
    assert abilities("zh-tw") is abilities("zh")
