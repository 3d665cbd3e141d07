"""Models that are gated, missing, half there, or there in a variant only: one message that says what to do."""

import json
import shutil
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from adapters.faults import InputFault
from study import Study
from study.backbones import content_hash, fetch, load, resolve
from study.backbones.architectures import text_encoder_of
from study.backbones.loading import _check_known
from study.backbones.names import resolve_scorer, wrong_size
from study.scoring import load_scorer
from tests.study import fakes, tiny

REPLY = Mock(status_code=403, headers={}, text="")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GatedRepoError("403", response=REPLY), "agreed to its terms.*huggingface.co/org/model.*hf auth login"),
        (RevisionNotFoundError("404", response=REPLY), "has no revision 'v9'; name a branch, a tag or a commit"),
        (LocalEntryNotFoundError("no"), "no folder or model on this machine, and the hub cannot be reached"),
    ],
)
def test_what_the_hub_does_not_give_is_one_message(monkeypatch, error, told):
    def refuses(*_given, **_named):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuses)
    with pytest.raises(InputFault, match=told):
        fetch(resolve("org/model@v9"))


def test_a_pinned_revision_is_asked_for_and_named(monkeypatch, tmp_path):
    fakes.pipeline(tmp_path / "snapshot", "StableDiffusionXLPipeline")
    asked = []

    def gives(id, revision, **named):
        second = "text_encoder_2/*.safetensors" in named["allow_patterns"]
        asked.append((id, revision, named["local_files_only"], second))
        return tmp_path / "snapshot"

    monkeypatch.setattr("huggingface_hub.snapshot_download", gives)
    source = resolve({"id": "org/model", "revision": "abc"})
    fetch(source)
    content_hash(source)
    assert source.name == "org/model@abc"  # which rows have as their backbone
    assert asked == [("org/model", "abc", False, True), ("org/model", "abc", True, True)]


def test_a_half_download_names_the_shards_that_are_missing(tmp_path):
    fakes.pipeline(tmp_path / "pipe", "FluxPipeline")
    part = tmp_path / "pipe" / "transformer"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "diffusion_pytorch_model-00001-of-00002.safetensors")
    shards = {name: f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n, name in enumerate("ab", 1)}
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(InputFault, match="transformer/diffusion_pytorch_model-00002-of-00002.safetensors is missing"):
        load(str(tmp_path / "pipe"))


def test_weights_of_a_variant_only_say_how_to_save_them_anew(tmp_path):
    fakes.pipeline(tmp_path / "pipe", "StableDiffusionPipeline")
    weights = tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(InputFault, match=r"only diffusion_pytorch_model.fp16.safetensors: load it with.*variant="):
        resolve(str(tmp_path / "pipe"))


def test_a_third_text_encoder_is_missing_only_where_it_is_said_to_be(tmp_path):
    fakes.pipeline(tmp_path / "pipe", "StableDiffusion3Pipeline")
    for name in ("text_encoder_3", "tokenizer_3"):
        (tmp_path / "pipe" / name).rename(tmp_path / name)
    with pytest.raises(InputFault, match=r"text_encoder_3/ is missing \(to do without it, name it \[null, null\]"):
        resolve(str(tmp_path / "pipe"))
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (tmp_path / "pipe" / "model_index.json").write_text(json.dumps(index))
    assert resolve(str(tmp_path / "pipe")).kind == "folder"


def index(**changes):
    def edit(folder):
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def mapped(weight_map):
    def edit(folder):
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
        weights.unlink()

    return edit


def cut(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (index(_class_name=["StableDiffusionPipeline"]), r"its class is \['StableDiffusionPipeline'\]"),
        (index(unet=[["diffusers"], "UNet2DConditionModel"]), r"unet is of the library \['diffusers'\]"),
        (index(unet=[None, None]), r"names \[None, None\] as unet, expected \[library, class\]"),
        (index(unet=["diffusers", "Kandinsky3UNet"]), "unet is of the class Kandinsky3UNet, expected UNet2DCond"),
        (index(vae=["diffusers", "AutoencoderTiny"]), "vae is of the class AutoencoderTiny, expected AutoencoderKL"),
        (mapped(["a"]), "weight_map is to name a file of this folder for each tensor"),
        (mapped({}), "weight_map is to name a file"),
        (mapped({"a": 3}), "weight_map is to name a file"),
        (mapped({"a": "../vae/diffusion_pytorch_model.safetensors"}), "weight_map is to name a file of this folder"),
        (cut, "vae/diffusion_pytorch_model.safetensors is damaged or was not copied to its end"),
    ],
)
def test_a_strange_or_damaged_folder_is_told_before_anything_is_loaded(tmp_path, edit, told):
    fakes.pipeline(tmp_path / "pipe", "StableDiffusionPipeline")
    edit(tmp_path / "pipe")
    with pytest.raises(InputFault, match=told):
        resolve(str(tmp_path / "pipe"))


def test_strange_sizes_in_configurations_are_no_reason_to_fail_before_the_model_is_loaded(tmp_path):
    fakes.pipeline(tmp_path / "pipe", "StableDiffusionPipeline")
    source = resolve(str(tmp_path / "pipe"))
    for unet in ('{"block_out_channels": 5}', '{"patch_size": "two"}', '{"patch_size": 0}', "{}"):
        (tmp_path / "pipe" / "unet" / "config.json").write_text(unet)
        (tmp_path / "pipe" / "vae" / "config.json").write_text("{}")
        assert wrong_size(source, 64) == ""


@pytest.mark.parametrize("name", ["org/model@", "org/model@ ", "@abc", {"id": "org/model", "revision": ""}])
def test_an_empty_revision_is_refused(name):
    with pytest.raises(InputFault, match="expected org/model@revision"):
        resolve(name)


def test_shards_of_a_variant_are_neither_hashed_nor_downloaded(tmp_path, monkeypatch):
    # As stable-diffusion-3-medium has its T5: whole precision and fp16, each in shards.
    fakes.pipeline(tmp_path / "pipe", "StableDiffusion3Pipeline")
    before = content_hash(resolve(str(tmp_path / "pipe")))
    for name in ("model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"):
        (tmp_path / "pipe" / "text_encoder_3" / name).write_bytes(fakes.weights("half"))
    assert content_hash(resolve(str(tmp_path / "pipe"))) == before
    patterns = {}

    def gives(id, revision, **named):
        patterns.update(named)
        return tmp_path / "pipe"

    monkeypatch.setattr("huggingface_hub.snapshot_download", gives)
    fetch(resolve("org/model"))
    asked = filter_repo_objects(
        ["text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00001-of-00002.safetensors"],
        allow_patterns=patterns["allow_patterns"],
        ignore_patterns=patterns["ignore_patterns"],
    )
    assert list(asked) == ["text_encoder_3/model-00001-of-00002.safetensors"]


def test_half_a_download_has_no_hash(tmp_path, monkeypatch):
    fakes.pipeline(tmp_path / "snapshot", "StableDiffusionXLPipeline")
    shutil.rmtree(tmp_path / "snapshot" / "text_encoder_2")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_given, **_named: tmp_path / "snapshot")
    with pytest.raises(InputFault, match="text_encoder_2/ is missing.*A download that was cut off goes on"):
        content_hash(resolve("org/model"))


def test_several_text_encoders_are_not_counted_as_one(tmp_path):
    fakes.pipeline(tmp_path / "pipe", "StableDiffusionXLPipeline")
    with pytest.raises(InputFault, match="several text encoders, which are not tuned here"):
        text_encoder_of(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("unet", {"in_channels": 9}, "its denoiser takes 9 channels, expected the 4 of the latents"),
        ("unet", {"time_cond_proj_dim": 8}, "is told the guidance .a latent consistency model"),
        ("scheduler", {"stochastic_sampling": True}, "its scheduler has stochastic_sampling=true"),
    ],
)
def test_models_that_would_be_trained_or_drawn_wrongly_are_refused(tmp_path, part, changes, told):
    pipeline = load(str(tiny.pipeline_folder(tmp_path))).pipeline
    getattr(pipeline, part).register_to_config(**changes)
    with pytest.raises(InputFault, match=told):
        _check_known(pipeline, "mine", ("epsilon", "v_prediction"))


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("unet/diffusion_pytorch_model", "conv_out.weight"),
        ("vae/diffusion_pytorch_model", "decoder.conv_in.bias"),
        ("text_encoder/model", "encoder.layers.0.layer_norm1.weight"),
    ],
)
def test_tensors_that_a_file_lacks_are_not_drawn_at_random(tmp_path, file, key):
    folder = tiny.pipeline_folder(tmp_path)
    weights = folder / f"{file}.safetensors"
    tensors = load_file(weights)
    del tensors[key]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputFault, match=rf"cannot be loaded \(the weights of {weights.parent.name} lack \S*{key}\)"):
        load(str(folder))


def test_tensors_that_a_scorer_lacks_are_not_drawn_at_random(tmp_path):
    folder = tiny.dino_folder(tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    lost = next(key for key in sorted(tensors) if not key.startswith("pooler."))
    save_file({key: value for key, value in tensors.items() if key != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(InputFault, match=rf"cannot be loaded.*lack {lost}"):
        load_scorer(str(folder))
    # DINO's published files have no pooler, which nothing reads.
    save_file(
        {key: value for key, value in tensors.items() if not key.startswith("pooler.")}, weights, {"format": "pt"}
    )
    assert load_scorer(str(folder)).images(tiny.pictures()).isfinite().all()


def test_a_scorer_that_the_hub_has_pickled_only_is_refused_with_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # pickled weights are not even downloaded
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **named: tmp_path)
    with pytest.raises(InputFault, match="pickled weights .*name a revision that has safetensors, or a folder"):
        fetch(resolve_scorer("facebook/dino-vits16"))


def test_scorers_of_the_hub_are_fetched_before_anything_runs(monkeypatch, tmp_path):
    scores = {"clip_i": "org/clip@abc", "clip_t": "org/clip@abc", "dino_i": "org/dino", "colour": "world"}
    study = Study(tmp_path, name="far", backbone="micro-unet", tasks=["subject/robot"], scores=scores, primary="clip_i",
                  fixed={"method": "lora"}, factors={"rank": [1]})  # fmt: skip
    fetched = []
    monkeypatch.setattr("study.running.fetch", fetched.append)
    study.fetch()
    assert [source.name for source in fetched] == ["org/clip@abc", "org/dino"]
