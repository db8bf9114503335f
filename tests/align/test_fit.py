"""The loop: resumable bit for bit, indifferent to how a step is cut, and loud when it fails."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from align_tiny import batch, build, chosen, cut, weights
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from precise_shield.align import fit as loop
from precise_shield.align.checkpoint import checkpoint_step
from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec, fit
from precise_shield.core.errors import ConfigError, DataError, NumericError, StoreError
from precise_shield.core.parallel import Crew

HERE = Path(__file__).parent
FORM = LoraRows(rank=3, dropout=0.2)
SPEC = FitSpec(
    epochs=3, batch_size=4, micro_batch=2, learning_rate=1e-2, schedule="cosine", warmup=0.2,
    kl_weight=0.5, checkpoint_every=1, clip=0.5,
)  # fmt: skip


def batches_for(bound, micro=2, count=6):
    """An epoch of three steps of two passes, in another order every epoch."""

    def batches(epoch):
        parts = [p for i in range(count // 2) for p in cut(batch(bound, 10 * epoch + i), micro)]
        return parts[epoch % 2 :] + parts[: epoch % 2]

    return batches


def run(bound, spec=SPEC, form=FORM, batches=None, **options):
    with tuning(bound, chosen(bound), form, seed=1) as deltas:
        result = fit(deltas, batches or batches_for(bound), spec, **options)
    return result, weights(bound)


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_broke_off_continues_bit_for_bit(stop, every, tmp_path):
    spec = FitSpec(**{**SPEC.__dict__, "checkpoint_every": every})
    whole, final = run(build("llama"), spec)
    path = tmp_path / "fit.safetensors"
    done = []

    def breaks(info):
        done.append(info.step)
        if info.step == stop:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(build("llama"), spec, checkpoint=path, on_step=breaks)
    torch.manual_seed(999)  # the world's randomness has moved on
    torch.randn(17)
    again = []
    resumed, weights_then = run(
        build("llama"), spec, checkpoint=path, on_step=lambda i: again.append(i.step)
    )
    assert equal(weights_then, final)
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 9
    assert again[-1] == 9
    assert len(again) < 9 or stop == 1 or (every, stop) == (2, 1)
    assert not equal(final, weights(build("llama")))


@pytest.mark.slow
def test_a_run_that_was_killed_continues_bit_for_bit(tmp_path):
    """SIGKILL in the middle: no handler, no flush, no farewell."""
    whole, final = run(build("llama"))
    path, told = tmp_path / "fit.safetensors", tmp_path / "steps"
    script = (
        f"import sys, time; sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}\n"
        "import torch; torch.set_num_threads(1)\n"
        "import test_fit as t\n"
        "from pathlib import Path\n"
        "def slow(info):\n"
        f"    Path({str(told)!r}).write_text(str(info.step)); time.sleep(0.3)\n"
        f"t.run(t.build('llama'), checkpoint=Path({str(path)!r}), on_step=slow)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not (told.exists() and told.read_text() in ("4", "5")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with safe_open(path, framework="pt") as file:
        (header,) = file.metadata().values()
    assert 3 <= json.loads(header)["step"] < 9  # it was in the middle
    resumed, weights_then = run(build("llama"), checkpoint=path)
    assert resumed.losses == whole.losses
    assert equal(weights_then, final)


def test_a_finished_run_is_not_run_again(tmp_path):
    path, steps = tmp_path / "fit.safetensors", []
    first, final = run(build("llama"), checkpoint=path)
    again, weights_then = run(build("llama"), checkpoint=path, on_step=steps.append)
    assert steps == []
    assert again.losses == first.losses
    assert len(first.losses) == 9
    assert equal(weights_then, final)


class Both(Crew):
    """Two processes, of which the other one's part is nothing."""

    def add(self, tensor):
        pass

    def add_gradients(self, parameters):
        pass


def cut_off(info):
    if info.step == 2:
        raise RuntimeError("power cut")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "fit.safetensors"
    run(build("llama"), checkpoint=path)
    others = {
        "settings": dict(spec=FitSpec(**{**SPEC.__dict__, "learning_rate": 2e-2})),
        "form": dict(form=LoraRows(rank=3)),
        "data": dict(batches=lambda epoch: batches_for(build("llama"))(epoch + 1)),
    }
    for options in others.values():
        with pytest.raises(StoreError, match="other neurons, weights or settings"):
            run(build("llama"), checkpoint=path, **options)
    with pytest.raises(StoreError, match="other neurons"):
        run(build("llama", torch.float64), checkpoint=path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(loop, "crew", lambda: Both(0, 2))
        run(build("llama"), checkpoint=tmp_path / "two", on_step=cut_off)
    with pytest.raises(StoreError, match="1 steps that 2 processes shared, and 1 would go on"):
        run(build("llama"), checkpoint=tmp_path / "two")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="Delete it to start afresh"):
        run(build("llama"), checkpoint=path)
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_does_not_depend_on_how_it_is_cut_into_passes(reduction):
    form = LoraRows(rank=3, dropout=0.0)  # dropout draws by pass
    runs = []
    for micro in (1, 2, 4):
        spec = FitSpec(**{**SPEC.__dict__, "micro_batch": micro, "reduction": reduction})
        bound = build("llama")
        runs.append(run(bound, spec, form, lambda e, m=micro: cut(batch(build("llama"), e), m)))
    for result, final in runs[1:]:
        torch.testing.assert_close(result.losses, runs[0][0].losses, rtol=1e-5, atol=1e-6)
        for name, value in final.items():
            torch.testing.assert_close(value, runs[0][1][name], rtol=1e-4, atol=1e-6)
    assert len(set(runs[0][0].losses)) == 3


def test_dropout_draws_afresh_at_every_step():
    """Rates too small to move a weight: only dropout can make two losses differ."""
    spec = FitSpec(epochs=4, batch_size=4, micro_batch=4, learning_rate=1e-30, warmup=0.0)

    def losses(seed, dropout):
        bound, form = build("llama"), LoraRows(rank=3, dropout=dropout)
        with tuning(bound, chosen(bound), form, seed=0) as deltas:
            for part in deltas.parts:
                torch.nn.init.constant_(part.b, 0.1)
            rows = batch(bound)
            chosen_spec = FitSpec(**{**spec.__dict__, "seed": seed})
            return fit(deltas, lambda epoch: [rows], chosen_spec).losses

    assert len(set(losses(1, 0.5))) == 4
    assert losses(1, 0.5) == losses(1, 0.5) != losses(2, 0.5)
    assert len(set(losses(1, 0.0))) == 1


def test_training_leaves_the_callers_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    result, _ = run(build("llama"))  # building seeds too, so set the state back first
    torch.manual_seed(5)
    bound = build("llama")
    torch.set_rng_state(before)
    again, _ = run(bound)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.losses == result.losses


def test_the_loss_is_the_papers_sum_plus_weighted_kl():
    """Recomputed from two whole models, row by row."""
    bound, base = build("llama"), build("llama")
    rows, infos = batch(bound), []
    spec = FitSpec(epochs=2, batch_size=4, micro_batch=4, learning_rate=0.05, warmup=0.0,
                   kl_weight=0.7, max_steps=2)  # fmt: skip
    with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas:
        fit(deltas, lambda e: [rows], spec, on_step=infos.append)
    assert infos[0].kl == pytest.approx(0.0, abs=1e-6)
    assert infos[1].kl > 1e-4
    with torch.no_grad():
        logits = base.model(**rows.inputs).logits
    first = sum(
        -float(logits[r, t - 1].log_softmax(-1)[rows.labels[r, t]])
        for r in range(4)
        for t in range(1, 10)
        if rows.labels[r, t] != -100
    )
    assert infos[0].loss == pytest.approx(first / 4, rel=1e-5)
    assert infos[0].nll == pytest.approx(first / rows.tokens(), rel=1e-5)
    assert infos[1].loss == pytest.approx(
        infos[1].nll * infos[1].tokens / 4 + 0.7 * infos[1].kl, rel=1e-5
    )


def test_kl_holds_benign_answers_near_the_base():
    def drift(weight):
        bound, infos = build("llama"), []
        spec = FitSpec(**{**SPEC.__dict__, "kl_weight": weight, "epochs": 8})
        run(bound, spec, LoraRows(rank=3, dropout=0.0), on_step=infos.append)
        return infos[-1].kl

    assert drift(50.0) < 0.7 * drift(1e-6)


def test_early_stopping_keeps_the_best(tmp_path):
    path = tmp_path / "fit.safetensors"
    spec = FitSpec(**{**SPEC.__dict__, "validate_every": 1, "patience": 3})
    figures = [5.0, 4.0, 4.5, 4.0, 4.2, 1.0]  # a tie is no improvement
    seen = []

    def validate_with(deltas):
        def validate():
            seen.append([p.detach().clone() for p in deltas.parameters()])
            assert not deltas.training
            return figures[len(seen) - 1]

        return validate

    bound = build("llama")
    with tuning(bound, chosen(bound), FORM, seed=1) as deltas:
        validate = validate_with(deltas)
        result = fit(deltas, batches_for(bound), spec, checkpoint=path, validate=validate)
        ended = [p.detach().clone() for p in deltas.parameters()]
    assert result.stopped == "early"
    assert result.steps == 5
    assert result.validations == (5.0, 4.0, 4.5, 4.0, 4.2)
    assert result.best_step == 2
    assert checkpoint_step(path) == 5
    assert all(torch.equal(a, b) for a, b in zip(ended, seen[1], strict=True))
    assert not torch.equal(ended[0], seen[4][0])
    again, final = run(build("llama"), spec, checkpoint=path, validate=lambda: 0.0)
    assert (again.stopped, again.best_step) == ("early", 2)
    assert equal(final, weights(bound))


def test_numbers_that_are_not_finite_stop_the_run():
    bound = build("llama")
    before = weights(bound)
    with pytest.raises(NumericError, match="Lower the learning rate"):
        run(bound, FitSpec(**{**SPEC.__dict__, "learning_rate": 1e30, "kl_weight": 0.0}))
    assert equal(weights(bound), before)
    with pytest.raises(NumericError, match="validation after step 3 gave nan"):
        run(bound, validate=lambda: math.nan)
    assert equal(weights(bound), before)


def test_batches_that_do_not_fit_the_settings_are_refused():
    bound = build("llama")
    with pytest.raises(ConfigError, match="holds 4 rows and micro_batch is 2"):
        run(bound, batches=lambda epoch: [batch(bound)])
    with pytest.raises(DataError, match="no batch to train on"):
        run(bound, batches=lambda epoch: [])
    with pytest.raises(ConfigError, match="epoch 1 has 4 batches and epoch 0 had 2"):
        run(bound, batches=lambda epoch: cut(batch(bound), 2) * (epoch + 1))
    with pytest.raises(ConfigError, match="no multiple"):
        FitSpec(batch_size=6, micro_batch=4)
    with pytest.raises(ConfigError, match="epochs is 0"):
        FitSpec(epochs=0)
    with pytest.raises(ConfigError, match="warmup 1"):
        FitSpec(warmup=1.0)


@given(
    st.integers(1, 200),
    st.floats(0, 0.9),
    st.sampled_from(["constant", "linear", "cosine"]),
)
def test_the_learning_rate_rises_then_never_rises_again(total, warmup, schedule):
    spec = FitSpec(warmup=warmup, schedule=schedule, learning_rate=2.0)
    rates = [spec.rate_at(step, total) for step in range(total)]
    rising = math.ceil(warmup * total)
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    assert max(rates) == 2.0
    if schedule == "constant":
        assert set(rates[rising:]) <= {2.0}
