"""Add an architecture: say where its blocks keep their neurons, and prove that it is so.

python examples/own_architecture.py
"""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.architecture.bind import bind
from precise_shield.models.architecture.layouts import FeedForward, Layout, register


class TidyConfig(LlamaConfig):
    """A model type that the table does not know."""

    model_type = "tidy"


class Feed(nn.Module):
    """A plain feed-forward part whose projections have names of their own."""

    def __init__(self, config: TidyConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states in, what the block adds out."""
        written: Tensor = self.narrow(torch.relu(self.widen(hidden)))
        return written


class TidyForCausalLM(LlamaForCausalLM):
    """Llama with another feed-forward part."""

    config_class = TidyConfig

    def __init__(self, config: TidyConfig) -> None:
        super().__init__(config)
        for block in self.model.layers:
            block.mlp = Feed(config)


# One row of the table: where the blocks are, and which projections make and read the neurons.
FEED_FORWARD = FeedForward(down="mlp.narrow", gate=None, up="mlp.widen")
register("tidy", text=Layout("model.layers", ffn=FEED_FORWARD))


def main() -> None:
    """Bind a small random model, and compare switching a neuron off with zeroing its column."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = TidyForCausalLM(TidyConfig(**sizes, **heads)).eval()
    bound = bind(model)
    for site, spot in bound.sites.items():
        print(f"{site}: {spot.width} neurons")

    neurons, tokens = NeuronSet.of({Site("text", 1): [5, 17]}), torch.arange(8)[None]
    with torch.inference_mode():
        before = model(tokens).logits
        with intervening(bound, neurons, suppress):
            off = model(tokens).logits
        model.model.layers[1].mlp.narrow.weight[:, [5, 17]] = 0
        zeroed = model(tokens).logits
    print(f"changed by {(off - before).abs().max():.4f}")
    print(f"apart from zeroed columns by {(off - zeroed).abs().max():.1e}")


if __name__ == "__main__":
    main()
