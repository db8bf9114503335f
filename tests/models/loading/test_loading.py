"""What loads, loads whole; what does not is refused in one sentence, before weights are read."""

import json
import shutil
import sys
import traceback

import pytest
import torch
from safetensors.torch import load_file, save_file

from gguf_tiny import write_gguf
from precise_shield.core.errors import LoadingError, UnsupportedModelError
from precise_shield.models.answers.generation import generate
from precise_shield.models.architecture.bind import bind
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.loading import model as loading
from precise_shield.models.loading.model import load
from precise_shield.models.loading.processors import NoVideo, image_only, needs_video
from precise_shield.models.loading.spec import ModelSpec
from tiny import TEXT_CONFIGS
from tiny_folders import EYES, example, save_tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "llama"
    save_tiny("llama", folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a sound model, for a test to damage."""
    return shutil.copytree(saved, tmp_path / "model")


def spec(folder, **more):
    return ModelSpec(str(folder), device="cpu", **more)


def rewrite(path, **changes):
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def change_weight(folder, name, function):
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[name] = function(weights[name])
    save_file(weights, file, metadata={"format": "pt"})


def refuses(folder, kind, sentence, **more):
    """The error says its piece, in one line, without a traceback of the library's own."""
    with pytest.raises(kind, match=sentence) as caught:
        load(spec(folder, **more))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "transformers/" not in shown


def test_a_sound_model_loads_ready_to_use(saved):
    loaded = load(spec(saved))
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.model_type, loaded.has_images) == ("llama", False)
    assert loaded.device == torch.device("cpu")
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.end_id) == "<|end|>"
    assert loaded.pad_id != loaded.end_id
    assert loaded.folder == saved


@pytest.mark.parametrize("model_type", [*TEXT_CONFIGS, *EYES])
def test_every_family_loads_from_disk_with_the_weights_it_was_saved_with(model_type, loaded_once):
    loaded = loaded_once(model_type)
    again = load(spec(loaded.folder))
    assert loaded.fingerprint == again.fingerprint
    assert loaded.has_images == (model_type in EYES)
    bind(loaded.model, ("text", "vision") if loaded.has_images else ("text",))
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.end_id) == "<|end|>"
    if loaded.has_images:
        assert loaded.image_token_id == loaded.tokenizer.convert_tokens_to_ids(
            EYES[model_type].image
        )


def test_the_fingerprint_follows_every_weight_and_the_type(folder):
    first = load(spec(folder)).fingerprint
    assert first == load(spec(folder)).fingerprint
    assert load(spec(folder, dtype="bfloat16")).fingerprint != first
    change_weight(
        folder,
        "model.layers.1.mlp.up_proj.weight",
        lambda w: w.index_fill(0, torch.tensor(3), 1e-3),
    )
    assert load(spec(folder)).fingerprint != first


def test_the_type_is_as_asked(saved):
    assert load(spec(saved, dtype="bfloat16")).model.dtype == torch.bfloat16
    with pytest.raises(LoadingError, match="no dtype 'int3'"):
        load(spec(saved, dtype="int3"))


def test_a_device_that_is_not_there_is_refused(saved):
    with pytest.raises(LoadingError, match="no device 'tpu9000'"):
        load(ModelSpec(str(saved), device="tpu9000"))
    if not torch.cuda.is_available():
        with pytest.raises(LoadingError, match="not available"):
            load(ModelSpec(str(saved), device="cuda"))
    assert loading.pick_device("auto").type in ("cpu", "cuda", "mps")


def test_the_best_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.pick_device("auto").type == "cuda"


def test_loading_writes_nothing_to_the_terminal(saved, capfd):
    load(spec(saved))
    seen = capfd.readouterr()
    assert seen.out + seen.err == ""
    sys.stderr.write("the terminal does work")
    assert capfd.readouterr().err


def test_a_folder_that_is_not_there(tmp_path):
    refuses(tmp_path / "nowhere" / "deep", LoadingError, "no such folder")


def test_a_hub_id_that_cannot_be_fetched():
    refuses("nobody/has-this-model-here", LoadingError, "no readable model configuration")


def test_a_file_that_is_no_model(folder):
    refuses(folder / "config.json", LoadingError, "is a file; give the folder")


def test_no_configuration(folder):
    (folder / "config.json").unlink()
    refuses(folder, LoadingError, "no readable model configuration")


def test_an_unknown_architecture_is_refused_before_weights_are_read(folder):
    rewrite(folder / "config.json", model_type="qwen9")
    (folder / "model.safetensors").write_bytes(b"never read")
    refuses(folder, UnsupportedModelError, "no layout for model_type 'qwen9'.*Did you mean")


def test_a_known_architecture_without_a_layout_is_refused(folder):
    rewrite(folder / "config.json", model_type="bloom")
    refuses(folder, UnsupportedModelError, "no layout for model_type 'bloom'")


def test_pickled_weights_are_refused_unread(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    refuses(folder, LoadingError, "the weights are pickled .pytorch_model.bin.")


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    refuses(folder, LoadingError, "no weights")


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refuses(folder, LoadingError, r"model\.safetensors: has \d+ bytes where its header promises")
    file.write_bytes(whole[:50])
    refuses(folder, LoadingError, "damaged or incomplete")
    file.write_bytes(b"")
    refuses(folder, LoadingError, "damaged or incomplete")
    file.write_bytes(whole[:8] + b"x" * (len(whole) - 8))
    refuses(folder, LoadingError, "header cannot be read")
    file.write_bytes(whole)
    load(spec(folder))


def test_a_missing_shard(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(folder, LoadingError, "model-00002.safetensors, which is not there; 1 of 2")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, bad):
    name = "model.layers.1.mlp.down_proj.weight"
    change_weight(folder, name, lambda w: w.index_fill(1, torch.tensor(3), bad))
    refuses(folder, LoadingError, f"'{name}' holds 16 values that are NaN or infinite")


def test_weights_that_do_not_fit_the_configuration(folder):
    rewrite(folder / "config.json", num_hidden_layers=4)
    refuses(folder, LoadingError, "9 weights are not in the checkpoint, the first 'model.layers.3")
    rewrite(folder / "config.json", num_hidden_layers=3, intermediate_size=48)
    refuses(folder, LoadingError, "the weights do not load")


def test_no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refuses(folder, LoadingError, "the tokenizer does not load")


@pytest.mark.parametrize("model_type", ["llama", "llava"])
def test_no_chat_template_until_one_is_given(model_type, tmp_path):
    folder = tmp_path / model_type
    save_tiny(model_type, folder, template=None)
    refuses(folder, LoadingError, "no chat template.*pass chat_template")
    refuses(folder, LoadingError, "chat_template", chat_template=tmp_path / "nowhere.jinja")
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}({{ m.role }}){% endfor %}go")
    loaded = load(spec(folder, chat_template=own))
    ids = encode(loaded, [example(0, "hello")]).inputs["input_ids"][0]
    assert loaded.tokenizer.decode(ids) == "(user)go"


def test_no_image_processor(tmp_path):
    folder = tmp_path / "llava"
    save_tiny("llava", folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink()
    refuses(folder, LoadingError, "processor")


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    rewrite(folder / "tokenizer_config.json", pad_token=None)
    loaded = load(spec(folder))
    assert loaded.pad_id == loaded.end_id


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_a_gguf_file_loads_with_its_own_words(arch, by_folder, tmp_path):
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, arch)
    loaded = load(spec(tmp_path, gguf_file="tiny.gguf") if by_folder else spec(path))
    assert loaded.model_type == arch
    inputs = encode(loaded, [example(0, "Wie heißt die Stadt? 猫")]).inputs
    assert loaded.tokenizer.decode(inputs["input_ids"][0]) == (
        "<|user|>Wie heißt die Stadt? 猫<|end|>\n<|assistant|>"
    )
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(**inputs).logits, source(**inputs).logits, atol=1e-4, rtol=1e-3
        )
    (answer,) = generate(loaded, [example(0, "x")], condition="base", max_new_tokens=3)
    assert answer.tokens <= 3
    loaded.model.save_pretrained(tmp_path / "again")  # no longer marked as quantized
    assert (tmp_path / "again" / "model.safetensors").exists()


def test_a_damaged_gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "qwen2")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuses(path, LoadingError, "gguf")
    path.write_bytes(b"not at all")
    refuses(path, LoadingError, "gguf")
    refuses(tmp_path, LoadingError, "holds no file 'other.gguf'", gguf_file="other.gguf")


def test_the_video_stub_stands_only_where_a_video_processor_would(loaded_once):
    stubbed = {t: needs_video(type(loaded_once(t).processor)) for t in EYES}
    assert {t for t, video in stubbed.items() if video} == {
        *("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")
    }
    processor = loaded_once("qwen2_5_vl").processor
    assert isinstance(processor.video_processor, NoVideo)
    assert processor.chat_template  # an overridden __init__ would have lost it
    assert "video_processor" not in processor.to_dict()
    assert isinstance(processor.video_processor, NoVideo)  # still there afterwards


def test_the_stubbed_class_keeps_its_name_and_checks_the_other_parts():
    from transformers import Qwen2VLProcessor

    kind = image_only(Qwen2VLProcessor)
    assert kind.__name__ == "Qwen2VLProcessor"
    assert kind.__init__ is Qwen2VLProcessor.__init__
    check = kind.check_argument_for_proper_class
    assert check(object.__new__(kind), "video_processor", NoVideo()) is NoVideo
    with pytest.raises(TypeError):
        check(object.__new__(kind), "tokenizer", "no tokenizer")
