"""Models that are gated, missing, half there, or there in a variant only: one message that says what to do."""

import json
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError

from adapters.faults import InputFault
from study import Study
from study.backbones import content_hash, fetch, load, resolve
from study.backbones.names import resolve_scorer
from tests.study import fakes

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
    monkeypatch.setattr("study.study.fetch", fetched.append)
    study.fetch()
    assert [source.name for source in fetched] == ["org/clip@abc", "org/dino"]
