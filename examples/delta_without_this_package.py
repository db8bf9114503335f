"""Put a delta that `precise-shield export --delta` wrote into a model, without this package.

python examples/delta_without_this_package.py DELTA BASE OUT

Needs transformers, safetensors and torch. The format is in docs/formats.md.
"""

import json
import sys

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def opened(folder: str) -> torch.nn.Module:
    """A model as it is stored, of the class whose weights the delta names."""
    sees = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype="auto")


def slices(weight: Tensor, dim: int, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A view that counts units along its second-last dimension, and where the changed ones are."""
    view = weight.unsqueeze(1) if weight.dim() == 1 else weight.transpose(dim, -2)
    if view.dim() == 2:
        return view, (index,)
    size = view.shape[1]  # stacked experts: position j of expert e is e * size + j
    return view, (index // size, index % size)


def main(delta: str, base: str, out: str) -> None:
    """Check that every slice holds the old values, put the new ones in, and save the model."""
    model = opened(base)
    weights = dict(model.named_parameters())
    moved = 0
    with safe_open(delta, framework="pt") as file, torch.no_grad():
        header = json.loads(file.metadata()["precise-shield-delta"])
        for name, facts in header["weights"].items():
            old, new = file.get_tensor(f"{name}/old"), file.get_tensor(f"{name}/new")
            view, where = slices(weights[name].data, facts["dim"], file.get_tensor(f"{name}/index"))
            if not torch.equal(view[where], old):
                sys.exit(f"{name} does not hold the delta's old values: another base model?")
            view[where] = new
            moved += int((old != new).sum())
    model.save_pretrained(out)
    print(f"{moved} weights changed; every other one is as it was. Wrote {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
