"""How an answer is announced in each language: "the answer is ...", and with which letters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Announcing:
    """Words of one language, as alternatives of a regular expression."""

    nouns: str
    """What is announced: the answer, the result."""

    links: str = ""
    """What stands between it and the answer; a colon or equals sign always may."""

    fillers: str = ""
    """What may stand before a letter: option, choice."""

    letters: str = ""
    """The language's own first letters, read as A, B, C, ...; `-` is read as nothing. A space
    begins another series."""

    spaced: bool = True
    """Words are told apart by spaces and have no further endings."""

    bare: bool = False
    """An answer may follow its noun without any link."""


ANNOUNCING: dict[str, Announcing] = {
    "af": Announcing("antwoord", "is", "opsie"),
    "ar": Announcing(
        "إجابة|اجابة|الجواب|جواب|الناتج", "هي|هو|هى", "الخيار|الحرف|الاختيار", "أبجده", spaced=False
    ),
    "bn": Announcing(
        "উত্তর", "হলো|হল|হচ্ছে|হবে", "বিকল্প|অপশন|টি", "কখগঘঙ অবডঢ", spaced=False, bare=True
    ),
    "de": Announcing("antwort|lösung|ergebnis", "ist|lautet|wäre|beträgt", "option|buchstabe"),
    "en": Announcing(
        "answer|solution|result",
        "is|are|was|would be|must be|should be|equals",
        "option|choice|letter|therefore|thus",
    ),
    "es": Announcing("respuesta|solución|resultado", "es|son|sería", "la|opción|letra"),
    "fi": Announcing("vastaus|tulos", "on", "vaihtoehto"),
    "fr": Announcing("réponse|solution|résultat", "est|serait", "la|l'option|option|lettre"),
    "hi": Announcing("उत्तर|जवाब", "है|हैं|होगा", "विकल्प", "कखगघङ", spaced=False, bare=True),
    "id": Announcing("jawaban|jawabannya|hasil|hasilnya", "adalah|yaitu|ialah", "opsi|pilihan"),
    "it": Announcing("risposta|soluzione|risultato", "è|sono|sarebbe", "la|l'opzione|opzione"),
    "ja": Announcing(
        "答え|答|正解|解答|回答", "は、|は|が", "選択肢|オプション", "アイウエオ", spaced=False
    ),
    "ko": Announcing("정답|답|대답", "은|는|이|가", "선택지|보기|옵션", "가나다라마", spaced=False),
    "ne": Announcing("उत्तर|जवाफ", "हो|छ|हुन्छ", "विकल्प", "कखगघङ", spaced=False, bare=True),
    "no": Announcing("svaret|svar|løsningen|resultatet", "er|blir", "alternativ"),
    "pt": Announcing("resposta|solução|resultado", "é|são|seria", "a|opção|alternativa|letra"),
    "ru": Announcing("ответ|ответом|результат", "это|будет|является|равен|—|-", "вариант", "АБ-ГД"),
    "sw": Announcing("jibu|matokeo", "ni", "chaguo"),
    "te": Announcing("సమాధానం|జవాబు", "అంటే", "ఎంపిక", spaced=False, bare=True),
    "th": Announcing("คำตอบ|ตอบ|ผลลัพธ์", "คือ|เป็น", "ข้อ|ตัวเลือก", "กขคง", spaced=False, bare=True),
    "tr": Announcing("cevap|yanıt|sonuç", "", "seçenek|şık", bare=True),
    "vi": Announcing("đáp án|câu trả lời|trả lời|kết quả", "là", "phương án"),
    "yo": Announcing("ìdáhùn|idáhùn|idahun", "ni|jẹ́", ""),
    "zh": Announcing(
        "答案|答|正确选项|正確選項|结果|結果|选择|選擇|选|選", "应该是|應該是|应为|是|为|為",
        "选项|選項", spaced=False, bare=True,
    ),
}  # fmt: skip
"""Nouns of MGSM, MMLU and Global-MMLU as simple-evals and lm-eval read them, and links of ours.

Cyrillic В is the third letter of its alphabet and looks like the second of the Latin one, so that
it chooses nothing.
"""

_GAP = r"[^\n.!?。।؟！？:：=]{0,40}?"
_MARKS = r"[\s*_`\"'“”«»„‘’「」$(\[{（［【\\]*"
"""Quotation, emphasis and brackets around an answer."""

_JOINED = (
    r"a-zа-яё\u0600-\u060b\u060d-\u061a\u0620-\u065f\u066e-\u06ff\u0900-\u0963\u0966-\u0dff"
    r"\u0e00-\u0e7fァ-ー가-힣"
)
"""Letters and marks that make a word of a single letter of their own script before them."""

_LATEX = r"(?:\\?(?:boxed|text|textbf|mathrm|mathbf)\{)*"
_OPENED = rf"{_MARKS}{_LATEX}{_MARKS}"


def _head(words: Announcing, ahead: str) -> str:
    """A noun, and what links it to its answer; `ahead` is what follows one without a link."""
    links = [r"[:：ঃ=]"]
    if words.links and words.spaced:
        links.append(rf"(?<!\w)(?:{words.links})(?!\w)(?:\s*[:：])?")
    elif words.links:
        links.append(rf"(?:{words.links})(?:\s*[:：])?")
    noun = rf"(?<!\w)(?:{words.nouns})(?!\w)" if words.spaced else rf"(?:{words.nouns})"
    near = rf"{noun}(?={_MARKS}{ahead})|" if words.bare else ""
    return rf"(?:{near}{noun}{_GAP}(?:{'|'.join(links)}))"


def _tables(language: str) -> list[Announcing]:
    """The language's row and, as models fall back on English everywhere, that of English."""
    return [ANNOUNCING[name] for name in dict.fromkeys((language, "en")) if name in ANNOUNCING]


@cache
def announced(language: str) -> re.Pattern[str]:
    """What comes before an announced answer, in the language or in English."""
    heads = "|".join(_head(row, r"[-−]?\d") for row in _tables(language))
    return re.compile(rf"(?:{heads}|####|(?=\\boxed\{{)){_OPENED}", re.IGNORECASE)


@cache
def announced_letter(language: str) -> re.Pattern[str]:
    """An announced letter, as group 1; the caller sees whether it is a letter or a word."""
    tables = _tables(language)
    heads = "|".join(_head(row, "") for row in tables)
    fillers = "|".join(row.fillers for row in tables if row.fillers)
    own = "".join(row.letters for row in tables).translate({ord("-"): None, ord(" "): None})
    letter = rf"[a-j]|[{own}](?![{_JOINED}])" if own else "[a-j]"
    return re.compile(
        rf"(?:{heads}|(?=\\boxed\{{)){_OPENED}(?:(?:{fillers}){_OPENED})*({letter})",
        re.IGNORECASE,
    )


@cache
def letter_first(language: str) -> re.Pattern[str]:
    """A letter that a text begins with, as group 1, after no more than "Answer:"."""
    nouns = "|".join(f"{row.nouns}|{row.fillers}" for row in _tables(language)).strip("|")
    return re.compile(rf"^\W*(?:{nouns})?\W*([a-z])(?:$|[\s.):,*。、，：）])", re.IGNORECASE)


@cache
def after_a_letter(language: str) -> re.Pattern[str]:
    """What makes a letter before it the answer: "... is the right answer"."""
    nouns = "|".join(row.nouns for row in _tables(language))
    return re.compile(rf"[)\]*\"'”»」）】\s]*{_GAP}(?:{nouns})", re.IGNORECASE)


def own_letter(language: str, sign: str) -> str | None:
    """The Latin letter that a sign of the language's own alphabet stands for; None if for none."""
    series = ANNOUNCING[language].letters.split() if language in ANNOUNCING else []
    return next((chr(ord("A") + row.index(sign)) for row in series if sign in row), None)
