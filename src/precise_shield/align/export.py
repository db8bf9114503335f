"""A strengthened model in a folder that plain transformers loads, with its proof and its limits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.sparse import SparseDelta, expect
from precise_shield.core.errors import StoreError, UnsupportedModelError
from precise_shield.core.store import must_be_free, readable_errors, whole_folder
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.packed import bits_of
from precise_shield.models.loading.files import quiet

COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template*", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""Files of the base model that go along byte for byte: saving them afresh can change them."""

PACKED = (
    "a quantised weight is never written, and the changed rows are those of the quantised base, so"
    " there is neither a merged checkpoint nor a delta to write. Export the PEFT adapter (export"
    " --peft): on a base quantised alike it is what was measured; on the unquantised base its"
    " effect was not measured."
)

THREAT_MODEL = """\
This model refuses more harmful requests of the kinds in the table, from people who can only
send it prompts. It is no content filter, and it is not safe in general.

- **Only what the table shows was measured.** Other languages, other kinds of picture, other
  attacks and longer conversations may fare worse than the base model.
- **Refusing everything also lowers an attack's success.** Read refusals of benign requests
  beside it.
- **Whoever holds the weights can undo this.** Nothing hides the change:
  comparing these weights with the base model's shows all of it, and a few fine-tuning steps can
  remove it.
- **The base model's licence and limits still hold.**
"""


@dataclass(frozen=True)
class Card:
    """What the model card says beside the receipt and the threat model."""

    title: str
    base: str
    """Name of the base model as people know it; no path of this machine."""
    base_revision: str | None
    table: str
    """Markdown table of what was measured, base and strengthened, with intervals."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: data fingerprints, seeds, settings, versions."""

    def markdown(self, stored: StoredReceipt, library: str = "transformers") -> str:
        """The card, with a front matter that model hubs read."""
        front: dict[str, Any] = {"library_name": library, "tags": ["safety"]}
        if "/" in self.base and not Path(self.base).is_absolute():
            front["base_model"] = self.base
        receipt = stored.receipt
        share = receipt.changed_weights / receipt.model_parameters
        trained = receipt.trained_with_a / receipt.model_parameters
        learnt = f"{receipt.trained_with_a:,} parameters were trained"
        learnt += f" ({trained:.3%} of the model's size)"
        if not receipt.trained_with_a:
            learnt = "No parameter was trained"
        revision = "" if self.base_revision is None else f" at revision `{self.base_revision}`"
        untrained = {
            "amplified": "amplified, without training",
            "damped": "softly suppressed, without training",
        }
        done = untrained.get(receipt.form, "trained to refuse harmful requests")
        who = f"{receipt.neurons:,} neurons"
        rest = "Every other weight is bit for bit the\nbase model's"
        if receipt.everything:
            who = "all of its parameters"
            rest = "No weight was held fixed, so\nonly tables outside training are unchanged"
        recipe = yaml.safe_dump(dict(self.recipe), sort_keys=False, allow_unicode=True)
        return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {self.title}

`{self.base}`{revision} with {who} {done}.
{learnt} and
{receipt.changed_weights:,} weights differ ({share:.3%}). {rest}; `receipt.json` holds the proof.

## Measured

{self.table.strip()}

## What to expect, and what not

{THREAT_MODEL}
## Recipe

```yaml
{recipe.strip()}
```
"""


def export_merged(
    bound: BoundModel,
    folder: Path,
    *,
    delta: SparseDelta,
    stored: StoredReceipt,
    card: Card,
    source: Path,
    words: PreTrainedTokenizerBase | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write the strengthened model: weights, tokenizer, processor, card and receipt.

    The folder appears complete or not at all. The delta file is not put beside the weights,
    because servers load every safetensors file of a folder.

    Args:
        bound: the model with the delta merged in.
        folder: where to; it must not exist.
        delta: what was merged.
        stored: its receipt; checked against the model before anything is written.
        card: what the model card says.
        source: folder of the base model, whose tokenizer and processor files are copied.
        words: saved in their place where `source` has none, as beside a GGUF file.
        finish: called with the folder once all else is in it.

    Raises:
        StoreError: as `write_model`.
        ReceiptError: the model does not hold the delta, or something else of it moved.
    """
    must_be_free(folder)
    expect(bound, delta, "new")
    stored.check(bound)
    texts = {
        "README.md": card.markdown(stored),
        "receipt.json": json.dumps(stored.content(), indent=1) + "\n",
    }
    write_model(bound, folder, source=source, words=words, texts=texts, finish=finish)


def write_model(
    bound: BoundModel,
    folder: Path,
    *,
    source: Path,
    words: PreTrainedTokenizerBase | None = None,
    texts: Mapping[str, str],
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write the model as it is in memory, with its base's companion files and further texts.

    Raises:
        StoreError: `folder` exists, cannot be written, or there is no tokenizer to put there.
        UnsupportedModelError: the model is quantised.
    """
    must_be_free(folder)
    if bits_of(bound.model) is not None:
        raise UnsupportedModelError(PACKED)
    files = list(_companions(source))
    tokenized = any(file.name.startswith(("tokenizer", "vocab")) for file in files)
    if not tokenized and words is None:
        raise StoreError(
            f"{source} has no tokenizer files to copy, so the model could not be used. Give the"
            " folder of the base model."
        )
    with readable_errors(folder.parent), whole_folder(folder) as part:
        with quiet():
            bound.model.save_pretrained(part)
        if not tokenized and words is not None:
            words.save_pretrained(part)
        for file in files:
            shutil.copyfile(file, part / file.name)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")
        if finish is not None:
            finish(part)


def _companions(source: Path) -> Iterator[Path]:
    found = {file for pattern in COPIED for file in source.glob(pattern) if file.is_file()}
    return iter(sorted(found))
