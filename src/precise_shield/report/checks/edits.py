"""What attack success becomes with neurons switched off or damped, beside random ones alike."""

from __future__ import annotations

from precise_shield.core.summary import Condition
from precise_shield.report.numbers.finding import Finding, Tone
from precise_shield.report.numbers.view import View
from precise_shield.report.safety.headline import points_text, share_text


def edit_findings(view: View) -> list[Finding | None]:
    """One finding an edit that was measured at every token."""
    return [_switched_off(view), _damped(view)]


def _switched_off(view: View) -> Finding | None:
    off, random = view.first("suppressed"), view.first("random_suppressed")
    words = "With the set switched off", "a random set switched off gives"
    return _beside_random(view, "Switched off", off, random, words, +1)


def _damped(view: View) -> Finding | None:
    """What damping did at every token; scoped edits are in the tables."""
    damped, random = view.first("damped"), view.first("random_damped")
    words = "With neurons of complied answers damped", "random neurons damped alike give"
    return _beside_random(view, "Damped", damped, random, words, -1)


def _beside_random(
    view: View,
    about: str,
    edited: Condition | None,
    random: Condition | None,
    words: tuple[str, str],
    expected: int,
) -> Finding | None:
    """Attack success under an edit, beside the same edit of random neurons."""
    base = view.first("base")
    if base is None or edited is None:
        return None
    change = view.change(edited.name, base.name, "attack_success")
    if change is None or not change.defined:
        return Finding(about, "unclear", f"{words[0]}, attack success is undefined.")
    told = (
        f"{words[0]}, attack success is {share_text(view.rate(edited.name, 'attack_success'))}"
        f" against {share_text(view.rate(base.name, 'attack_success'))} untouched"
        f" ({points_text(change)})"
    )
    if random is None:
        return Finding(about, "unclear", f"{told}; no random neurons stand beside it.")
    beyond = view.change(edited.name, random.name, "attack_success")
    tones: dict[int, Tone] = {1: "good", 0: "unclear", -1: "bad"}
    return Finding(
        about,
        tones[expected * (beyond.direction if beyond is not None else 0)],
        f"{told}; {words[1]} {share_text(view.rate(random.name, 'attack_success'))}, a difference"
        f" of {points_text(beyond)}.",
    )
