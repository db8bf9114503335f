"""Loaded tiny models: each family is saved once and loaded once for all tests that only look."""

import pytest

from tiny_folders import draw, example, tiny_loaded


@pytest.fixture(scope="session")
def loaded_once(tmp_path_factory):
    cache = {}

    def get(model_type):
        if model_type not in cache:
            cache[model_type] = tiny_loaded(model_type, tmp_path_factory.mktemp(model_type))
        return cache[model_type]

    return get


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return [draw(folder / "red.png"), draw(folder / "green.png", (3, 190, 20))]


@pytest.fixture
def asked():
    """Requests of different lengths and scripts, without pictures."""
    prompts = ("Hello there, how is the cat", "Wie heißt die Stadt?", "猫はどこ", "x", "two words")
    return [example(number, prompt) for number, prompt in enumerate(prompts)]


@pytest.fixture
def shown(pictures):
    """Requests about pictures."""
    prompts = ("What is on the mat?", "see", "Was ist das für eine Stadt")
    return [
        example(10 + number, prompt, pictures[number % 2]) for number, prompt in enumerate(prompts)
    ]
