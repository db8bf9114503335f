"""Judging models from local weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

from precise_shield.core.errors import LoadingError
from precise_shield.evaluate.judging.asking import OnReply
from precise_shield.evaluate.judging.formats import Format, Question
from precise_shield.models.answers.asking import complete, rendered
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.models.loading.spec import ModelSpec


@dataclass(frozen=True)
class LocalModel:
    """A judging model that is loaded when it is first asked."""

    spec: ModelSpec
    batch_size: int = 16

    _kept: dict[bool, LoadedModel] = field(default_factory=dict, compare=False, repr=False)

    def _loaded(self, *, plain: bool) -> LoadedModel:
        """The model; with `plain` a template that writes words as they are, if it has none."""
        if plain not in self._kept:
            own = self.spec.chat_template
            template = Path(__file__).with_name("plain.jinja") if plain and own is None else own
            self._kept[plain] = load(replace(self.spec, chat_template=template), searched=False)
        return self._kept[plain]

    def describe(self) -> str:
        """The model's name and revision; files of one's own by their last name and their bytes."""
        path, spec = Path(self.spec.path), self.spec
        said = [f"{path.name} (files {_bytes_of(path)})" if path.exists() else spec.path]
        said += [f"at {spec.revision}"] if spec.revision else []
        said += [f"in {spec.dtype}"] if spec.dtype != "auto" else []
        if spec.chat_template is not None:
            said.append(f"with the template {_bytes_of(spec.chat_template)}")
        return " ".join(said)

    def ask(self, questions: Sequence[Question], how: Format, on_reply: OnReply) -> None:
        """Ask all questions, in batches, greedily.

        Raises:
            LoadingError: the model cannot be loaded, sees no pictures although a question has one,
                or its template is not made for the format.
        """
        loaded = self._loaded(plain=not any(question.turns for question in questions))
        texts = [_text(loaded, question, how) for question in questions]
        for start in range(0, len(texts), 8 * self.batch_size):
            part = texts[start : start + 8 * self.batch_size]
            shown = [question.image for question in questions[start : start + len(part)]]
            replies = complete(loaded, part, how.tokens, self.batch_size, shown)
            for offset, said in enumerate(replies):
                on_reply(start + offset, said)


def _bytes_of(path: Path) -> str:
    """A short hash of a file, or of the files of a folder, by name and bytes.

    Raises:
        LoadingError: one cannot be read.
    """
    total = sha256()
    try:
        for file in sorted(path.glob("*")) if path.is_dir() else [path]:
            if file.is_file():
                state = file.stat()
                total.update(f"{file.name}:".encode())
                total.update(_hashed(file.resolve(), state.st_size, state.st_mtime_ns))
    except OSError as error:
        raise LoadingError(
            f"{path} cannot be read ({error}). Put the judge's files back."
        ) from error
    return total.hexdigest()[:12]


@lru_cache(maxsize=1024)
def _hashed(file: Path, size: int, changed: int) -> bytes:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").digest()


def _text(loaded: LoadedModel, question: Question, how: Format) -> str:
    if not question.turns:
        return f"{loaded.tokenizer.bos_token or ''}{question.raw}"
    turns = [{"role": role, "content": text} for role, text in question.turns]
    pictured = question.image is not None
    return rendered(loaded, turns, opens_answer=how.opens_answer, pictured=pictured)
