"""Two processes that share every step end where one ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parallel_worker import FORMS, train
from safetensors.torch import load_file

from precise_shield.align.parallel import Crew, crew

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
         str(HERE / "parallel_worker.py"), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_processes_end_where_one_ends(form, folder):
    """Dropout, clipping, the KL term and a smaller last step included."""
    alone, losses = train(form)
    first, second = (load_file(folder / f"{form}-{rank}.safetensors") for rank in (0, 1))
    shared = first.pop("losses")
    assert torch.equal(shared, second.pop("losses"))
    torch.testing.assert_close(shared, torch.tensor(losses).double(), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-6, atol=1e-6)
    assert losses[-1] != losses[0]
    assert (folder / f"{form}.checkpoint").is_file()


def test_alone_a_process_takes_everything():
    assert crew() == Crew(0, 1)
    assert Crew().share("abc") == [(0, "a"), (1, "b"), (2, "c")]
    shares = [Crew(rank, 2).share("abcde") for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(enumerate("abcde"))
    assert Crew(1, 2).share("a") == []
    assert Crew().total(1.0, 2.0) == (1.0, 2.0)
