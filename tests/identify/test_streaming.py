"""A pass that is cut by memory or killed gives what an undisturbed one gives."""

import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from precise_shield.core.errors import DataError, StoreError, UserError
from precise_shield.core.moments import FIELDS
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import ACTIVATION, Batch, Quantity, empty, state_bytes
from precise_shield.identify.stats import Place, Stats, progress_of
from precise_shield.identify.streaming import Checkpoint, fitting_batch, stream
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.batching import largest_fitting
from tiny import inputs, tiny

CELLS = [Cell("en", "text", "harmful"), Cell("en", "text", "benign")]
COUNT = 24


@pytest.fixture(scope="module")
def bound():
    return bind(tiny("llama"))


def parts(size):
    return [list(range(start, min(start + size, COUNT))) for start in range(0, COUNT, size)]


def maker(bound):
    """Rows of one fixed table, by index."""
    ids = inputs(bound.model, batch=COUNT, length=6)["input_ids"]

    def make(index):
        mask = torch.zeros(len(index), 6, dtype=torch.bool)
        mask[:, 2:5] = True
        return Batch(
            inputs={"input_ids": ids[index]},
            cells=[CELLS[i % 2] for i in index],
            folds=torch.tensor(index) % 16,
            masks={"response_mean": mask, "first_decision": mask & (mask.cumsum(1) == 1)},
        )

    return make


def often(path):
    """Saves after every part."""
    return Checkpoint(path, 0.0, 1e9)


def run(bound, batch_size=4, **more):
    return stream(bound, CELLS, parts, maker(bound), batch_size=batch_size, **more)


def same(one, other):
    assert one.moments.keys() == other.moments.keys()
    return all(
        torch.equal(getattr(moments, name), getattr(other.moments[place], name))
        for place, moments in one.moments.items()
        for name in FIELDS
    )


class Stopped(Exception):
    pass


def after(count):
    """A progress callback that gives up once so many examples are read."""
    seen = []

    def advance(step):
        seen.append(step)
        if sum(seen) >= count:
            raise Stopped

    return advance


def limited(most, site=1):
    """The activation, on a machine that holds `most` examples and runs out at the second layer."""

    def read(bound, batch, emit):
        fired = []

        def watched(where, position, rows):
            fired.append(where)
            if len(batch.cells) > most and where.layer >= site:
                raise torch.OutOfMemoryError("out of memory")
            emit(where, position, rows)

        ACTIVATION.read(bound, batch, watched)

    return Quantity("activation", read, "the same with little memory")


def test_a_batch_that_runs_out_of_memory_half_way_is_counted_once(bound):
    cramped = run(bound, quantity=limited(2))
    assert same(cramped, run(bound, batch_size=2))
    count = cramped.at(Site("text", 0), CELLS[0], "response_mean").count
    assert int(count.sum()) == COUNT // 2
    with pytest.raises(UserError, match="one example alone does not fit"):
        run(bound, quantity=limited(0))


@pytest.mark.parametrize("quantity", [ACTIVATION, limited(3)], ids=["ample", "cramped"])
def test_an_interrupted_pass_equals_an_uninterrupted_one_bit_for_bit(bound, tmp_path, quantity):
    whole = run(bound, quantity=quantity)
    path = tmp_path / "unfinished.safetensors"
    for stop in (5, 6):  # twice, the second time after having been taken up
        with pytest.raises(Stopped):
            run(bound, quantity=quantity, checkpoint=often(path), on_batch=after(stop))
    assert progress_of(path)["done"] == 1
    seen = []
    resumed = run(
        bound,
        batch_size=7,  # another size by then: the cuts stay those of the start
        quantity=quantity,
        checkpoint=often(path),
        on_batch=seen.append,
    )
    assert same(resumed, whole)
    assert sum(seen) == COUNT
    assert seen[0] == 4  # what was kept is not read again
    assert seen[1] == (4 if quantity is ACTIVATION else 2)  # nor is the limit learnt again


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import test_streaming as t
from precise_shield.identify.streaming import Checkpoint
seen = []
def die(step):
    seen.append(step)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
t.run(t.bind(t.tiny("llama")), checkpoint=Checkpoint(Path({path!r}), 0.0, 1e9), on_batch=die)
"""


def test_a_killed_process_loses_at_most_what_it_had_not_saved(bound, tmp_path):
    path, here = tmp_path / "unfinished.safetensors", Path(__file__).parent
    script = SCRIPT.format(tests=str(here.parent), here=str(here), path=str(path))
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()[-500:]
    (tmp_path / "unfinished.safetensors.partial").write_bytes(b"a saving that was cut off")
    seen = []
    resumed = run(bound, checkpoint=often(path), on_batch=seen.append)
    assert same(resumed, run(bound))
    assert seen[0] == 12  # three parts had been saved


def test_a_damaged_or_finished_file_is_not_taken_for_an_unfinished_pass(bound, tmp_path):
    path = tmp_path / "unfinished.safetensors"
    run(bound).save(path)
    with pytest.raises(StoreError, match="no unfinished pass"):
        run(bound, checkpoint=often(path))
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not json")
    with pytest.raises(StoreError, match="cannot be read"):
        run(bound, checkpoint=often(path))


def test_saving_takes_a_small_share_of_the_time(bound, tmp_path):
    checkpoint = Checkpoint(tmp_path / "unfinished.safetensors", 1000.0)
    run(bound, checkpoint=checkpoint)
    assert not checkpoint.path.exists()
    checkpoint.seconds, checkpoint._took = 0, 1000  # a saving that took long is not soon repeated
    checkpoint.keep(run(bound), {"done": 1, "fits": None, "batch_size": 4})
    assert not checkpoint.path.exists()


def test_memory_does_not_grow_with_the_number_of_prompts(bound):
    """What passed through a batch is gone when the next one has been read."""
    made, living = [], []
    make = maker(bound)

    def watched(index):
        batch = make(index)
        made.extend(weakref.ref(tensor) for tensor in (*batch.inputs.values(), batch.folds))
        return batch

    def read(bound, batch, emit):
        ACTIVATION.read(bound, batch, emit)
        living.append(sum(tensor() is not None for tensor in made))

    quantity = Quantity("activation", read, "the same, watched")
    many = lambda size: parts(size) * 5  # noqa: E731
    stream(bound, CELLS, many, watched, batch_size=4, quantity=quantity)
    assert len(made) == 30 * 2
    assert living == [2] * 30  # ids and folds of the batch that is being read, and no other's


def test_the_output_head_never_runs(bound):
    ran = []
    head = bound.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: ran.append(1))
    try:
        run(bound)
        assert not ran
        bound.model(**maker(bound)([0]).inputs)
        assert ran
    finally:
        handle.remove()


@pytest.mark.parametrize("size", [1, 5, 24])
def test_statistics_do_not_depend_on_the_cut_however_far_from_zero(bound, size):
    """Mean 1e6, variance about 1: a sum of squares would lose it all."""
    table = 1e6 + torch.randn(COUNT, 24, generator=torch.Generator().manual_seed(0)).double()

    def read(_, batch, emit):
        emit(Site("text", 0), "response_mean", table[batch.inputs["input_ids"][:, 0]])

    make = maker(bound)

    def numbered(index):
        batch = make(index)
        return Batch(
            {"input_ids": torch.tensor(index)[:, None]}, batch.cells, batch.folds, batch.masks
        )

    quantity = Quantity("activation", read, "a table")
    stats = stream(bound, CELLS, parts, numbered, batch_size=size, quantity=quantity)
    found = stats.at(Site("text", 0), CELLS[0], "response_mean").pooled()
    torch.testing.assert_close(found.var, table[::2].var(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.mean, table[::2].mean(0), rtol=1e-14, atol=0)


def test_positions_without_folds_hold_the_same_sums_in_a_sixteenth_of_the_memory(bound, tmp_path):
    whole, lean = run(bound), run(bound, folded=["response_mean"])
    lean.save(tmp_path / "stats.safetensors")
    lean = Stats.load(tmp_path / "stats.safetensors")
    site = Site("text", 2)
    assert lean.at(site, CELLS[0], "response_mean").folds == 16
    one = lean.at(site, CELLS[1], "first_decision")
    assert one.folds == 1
    many = whole.at(site, CELLS[1], "first_decision")
    for name in ("mean", "var", "magnitude", "positive", "count"):
        torch.testing.assert_close(getattr(one.pooled(), name), getattr(many.pooled(), name))
    assert lean.bytes() == state_bytes(bound, cells=2, positions=1, unfolded=1) < whole.bytes()
    lean.fold_in(
        Place(site, "first_decision"), torch.ones(1, 24), torch.tensor([0]), torch.tensor([9])
    )
    assert int(lean.at(site, CELLS[1], "first_decision").count.sum()) == COUNT // 2 + 1


def test_the_batch_size_is_found_by_doubling_until_it_does_not_fit(bound):
    tried = []

    def attempt(most):
        def run(size):
            tried.append(size)
            if size > most:
                raise torch.OutOfMemoryError

        return run

    assert largest_fitting(attempt(100), 8, 512) == 64
    assert tried == [8, 16, 32, 64, 128]
    assert largest_fitting(attempt(3), 8, 512) == 2
    assert largest_fitting(attempt(1000), 8, 50) == 50
    with pytest.raises(UserError, match="one example alone"):
        largest_fitting(attempt(0), 8, 50)
    size = fitting_batch(bound, list(range(COUNT)), maker(bound), limited(10), start=4)
    assert size == 8


def test_an_unannounced_cell_is_refused_before_anything_runs(bound):
    with pytest.raises(DataError, match="was not announced"):
        stream(bound, CELLS[:1], parts, maker(bound), batch_size=4)
    assert not empty(bound, CELLS).moments
