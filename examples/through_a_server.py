"""Evaluate a model behind an OpenAI-compatible server (vLLM, SGLang, any): no weights here.

python examples/through_a_server.py MANIFEST URL MODEL [KEY_ENV]

URL ends before /chat/completions; the key, if any, is read from the variable KEY_ENV.
"""

import sys

from precise_shield.core.records import Example, Response
from precise_shield.data.manifest import load
from precise_shield.evaluate.endpoint import Endpoint
from precise_shield.evaluate.formats import Format, Question
from precise_shield.evaluate.judges import JUDGES
from precise_shield.evaluate.measures import rate_rows


def asked(example: Example, _: str) -> list[Question]:
    """What the server is asked: the user's words alone."""
    return [Question((("user", example.prompt),))]


# A format also says how replies become labels; here the replies are the answers to be judged.
PLAIN = Format("plain", asked, lambda *_: "unclear", source="the prompt itself", tokens=256)


def answers(examples: list[Example], server: Endpoint) -> list[Response]:
    """Every example's answer, in order; the server is asked several at a time."""
    said: dict[int, str] = {}
    questions = [question for example in examples for question in asked(example, "")]
    server.ask(questions, PLAIN, said.__setitem__)
    return [
        Response(example.id, server.model, said[i], tokens=0, finished=True)  # not reported
        for i, example in enumerate(examples)
    ]


def main(manifest: str, url: str, model: str, key_env: str | None = None) -> None:
    """Ask the test prompts that have no picture, judge the answers and print the rates."""
    rows = load(manifest).examples
    examples = [row for row in rows if row.split == "test" and row.image is None]
    responses = answers(examples, Endpoint(url, model, key_env))
    judge = JUDGES["refusal_phrases"](examples)
    verdicts = judge.judge(list(zip(examples, responses, strict=True)))
    for row in rate_rows(examples, verdicts):
        place = "all" if row.language is None else f"{row.language}/{row.modality or 'all'}"
        value = "undefined" if row.value is None else f"{row.value:.1%}"
        sure = "" if row.low is None else f" [{row.low:.1%}, {row.high:.1%}]"
        print(f"{row.measure:20} {place:16} {value}{sure} n={row.n} unscored={row.unscored}")


if __name__ == "__main__":
    main(*sys.argv[1:])
