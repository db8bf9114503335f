"""Load an adapter that `precise-shield export --peft` wrote with stock PEFT, and switch it off.

python examples/adapter_in_peft.py ADAPTER BASE PROMPT

Needs transformers and peft, not this package.
"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(adapter: str, base: str, prompt: str) -> None:
    """Answer with and without the adapter, and say how far it moves the next token's logits."""
    words = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model = PeftModel.from_pretrained(model, adapter).eval()
    turns = [{"role": "user", "content": prompt}]
    inputs = words.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]

    def said() -> str:
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        return str(words.decode(tokens[0, length:], skip_special_tokens=True))

    with torch.inference_mode():
        after, with_it = said(), model(**inputs).logits[0, -1]
        with model.disable_adapter():
            before, without = said(), model(**inputs).logits[0, -1]
    print(f"before: {before!r}\nafter:  {after!r}")
    print(f"largest change of a logit: {(with_it - without).abs().max():.4g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
