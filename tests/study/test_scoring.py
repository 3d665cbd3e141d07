import json
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.pairwise import pairwise_cosine_similarity
from transformers import (
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from adapters.faults import InputFault
from study.scoring import cosines, diversity, encode, image_fidelity, load_scorer, prompt_fidelity, score
from tests.study import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def clip(root):
    return load_scorer(str(tiny.clip_folder(root)))


@pytest.fixture(scope="module")
def dino(root):
    return load_scorer(str(tiny.dino_folder(root)))


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def prepared(size=16):
    """Pictures as a CLIP processor makes them: 32 pixels to `size` (bicubic), CLIP's mean and SD; oracle in Pillow."""
    mean, sd = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    small = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in tiny.pictures()]
    return torch.tensor((np.stack(small) / 255 - mean) / sd, dtype=torch.float32).permute(0, 3, 1, 2)


def test_fidelity_and_diversity_are_their_closed_forms():
    rng = np.random.default_rng(0)
    generated, real, texts = (rng.normal(size=(count, 7)) for count in (5, 3, 5))
    prompts = [0, 1, 0, 1, 2]
    g, r, t = unit(generated), unit(real), unit(texts)  # oracle: plain numpy
    pairs = [(i, j) for i in range(5) for j in range(i) if prompts[i] == prompts[j]]
    everyone = [(i, j) for i in range(5) for j in range(i)]
    np.testing.assert_allclose(
        image_fidelity(torch.tensor(generated), torch.tensor(real)), (g @ r.T).mean(1), rtol=1e-12
    )
    np.testing.assert_allclose(
        prompt_fidelity(torch.tensor(generated), torch.tensor(texts)), (g * t).sum(1), rtol=1e-12
    )
    features = torch.tensor(generated)
    assert diversity(features, prompts) == pytest.approx(np.mean([1 - g[i] @ g[j] for i, j in pairs]), rel=1e-12)
    assert diversity(features, range(5)) == pytest.approx(np.mean([1 - g[i] @ g[j] for i, j in everyone]), rel=1e-12)
    assert np.isnan(diversity(features[:1], [0]))


def test_cosines_are_those_of_torchmetrics():
    draws = torch.Generator().manual_seed(0)
    left, right = (torch.randn(count, 7, generator=draws) * 100 for count in (5, 3))
    expected = pairwise_cosine_similarity(left.double(), right.double())
    torch.testing.assert_close(cosines(left, right), expected, rtol=1e-14, atol=1e-15)


def test_scoring_imports_no_plotting():
    """Matplotlib and torchmetrics, which brings it, would add a tenth to every worker's start."""
    code = (
        "import sys, torch, study.scoring as s; x = s.load_scorer('micro-dino').images(torch.zeros(2, 64, 64, 3)"
        ".byte().numpy()); s.image_fidelity(x, x); sys.exit(bool({'matplotlib', 'torchmetrics'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_clip_features_are_those_of_the_model_itself(root, clip):
    model = CLIPModel.from_pretrained(root / "clip-1", dtype=torch.float32).eval()
    with torch.no_grad():
        images = model.visual_projection(model.vision_model(pixel_values=prepared()).pooler_output)
        tokens = clip.tokenizer(["a red robot"], return_tensors="pt")
        texts = model.text_projection(model.text_model(**tokens).pooler_output)
    torch.testing.assert_close(clip.images(tiny.pictures()), images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip.texts(["a red robot"]), texts, rtol=1e-4, atol=1e-4)


def test_a_resnet_gives_its_pooled_output(root, dino):
    model = ResNetModel.from_pretrained(root / "dino-2", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(pixel_values=prepared()).pooler_output.flatten(1)
    torch.testing.assert_close(dino.images(tiny.pictures()), expected, rtol=1e-4, atol=1e-4)


def test_a_vit_gives_its_class_token_and_not_the_untrained_pooler(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    scorer = load_scorer(str(tmp_path))
    given = scorer.processor(images=list(tiny.pictures()), return_tensors="pt")
    with torch.no_grad():
        expected = scorer.model(**given).last_hidden_state[:, 0]
    torch.testing.assert_close(scorer.images(tiny.pictures()), expected)
    assert torch.equal(scorer.images(tiny.pictures()), load_scorer(str(tmp_path)).images(tiny.pictures()))


TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True}


def dino_like():
    """A small random facebook/dino-vits16 with its preprocessor_config.json, older than image processors."""
    model = ViTModel(ViTConfig(**TOWER, image_size=32, patch_size=16), add_pooling_layer=False)
    told = {"do_resize": True, "size": 32, "resample": 2, "feature_extractor_type": "ViTFeatureExtractor"}
    return model, told, lambda image: image.resize((32, 32), Image.Resampling.BILINEAR)


def dinov2_like():
    """A small random facebook/dinov2-base with its preprocessor_config.json; its pictures are smaller than it knows."""
    model = Dinov2Model(Dinov2Config(**TOWER, mlp_ratio=2, image_size=70, patch_size=14))
    told = {
        "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28}, "image_processor_type": "BitImageProcessor", "do_convert_rgb": True,
    }  # fmt: skip
    return model, told, lambda image: image.resize((32, 32), Image.Resampling.BICUBIC).crop((2, 2, 30, 30))


@pytest.mark.parametrize("published", [dino_like, dinov2_like])
def test_dino_and_dinov2_as_published_give_their_class_token(tmp_path, published):
    torch.manual_seed(0)
    model, told, prepare = published()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**told, **IMAGENET}))
    # Oracle: Pillow, the published mean and SD, and the model itself; of DINOv2 the class token is what it pools.
    pictures = tiny.pictures(size=64)
    small = np.stack([np.asarray(prepare(Image.fromarray(picture))) for picture in pictures]) / 255
    pixels = torch.tensor((small - IMAGENET["image_mean"]) / IMAGENET["image_std"], dtype=torch.float32)
    with torch.no_grad():
        output = model.eval()(pixel_values=pixels.permute(0, 3, 1, 2))
    expected = output.last_hidden_state[:, 0] if published is dino_like else output.pooler_output
    torch.testing.assert_close(load_scorer(str(tmp_path)).images(pictures), expected, rtol=1e-4, atol=1e-4)


def test_clip_s_published_preprocessor_is_read(root):
    folder = tiny.clip_folder(root, seed=4)
    expected = load_scorer(str(folder)).images(tiny.pictures())
    told = {  # as openai/clip-vit-base-patch32 has it, at this model's size
        "crop_size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 16,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    torch.testing.assert_close(load_scorer(str(folder)).images(tiny.pictures()), expected)


def test_a_trial_s_scores_are_the_means_over_its_pictures(clip, dino):
    pictures, real = tiny.pictures(4, seed=5), tiny.pictures()
    scorers = {"clip_i": clip, "clip_t": clip, "dino_i": dino}
    described = ["a robot", "a robot on grass"] * 2
    features = {scorer.hash: scorer.images(real) for scorer in (clip, dino)}
    totals, single = score(pictures, encode(pictures, scorers.values()), [0, 1, 0, 1], described, scorers, features)
    # Oracle: plain numpy on the features.
    seen = {s.hash: unit(s.images(pictures).double().numpy()) for s in (clip, dino)}
    known = {key: unit(value.double().numpy()) for key, value in features.items()}
    texts = unit(clip.texts(described).double().numpy())
    expected = {
        "clip_i": (seen[clip.hash] @ known[clip.hash].T).mean(1),
        "dino_i": (seen[dino.hash] @ known[dino.hash].T).mean(1),
        "clip_t": (seen[clip.hash] * texts).sum(1),
    }
    for name, values in expected.items():
        assert [picture[name] for picture in single] == pytest.approx(values, rel=1e-6)
        assert totals[name] == pytest.approx(values.mean(), rel=1e-6)
    judged = seen[dino.hash]
    assert totals["diversity"] == pytest.approx(1 - (judged[0] @ judged[2] + judged[1] @ judged[3]) / 2, rel=1e-6)


def test_a_picture_of_itself_scores_one(clip):
    picture = tiny.pictures()[:1]
    features = encode(picture, [clip])
    totals, _ = score(picture, features, [0], ["a dog"], {"clip_i": clip}, features)
    assert totals["clip_i"] == pytest.approx(1, abs=1e-6)


def test_a_scorer_without_text_cannot_judge_prompts(dino):
    with pytest.raises(InputFault, match="reads no text"):
        score(tiny.pictures(), encode(tiny.pictures(), [dino]), [0, 0, 0], ["a dog"] * 3, {"clip_t": dino}, {})


def test_a_score_of_unknown_kind_is_refused(clip):
    with pytest.raises(InputFault, match="ending in _i"):
        score(tiny.pictures(), {}, [0, 0, 0], ["a dog"] * 3, {"beauty": clip}, {})


def test_a_broken_scorer_is_one_message(tmp_path):
    folder = tiny.dino_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputFault, match=r"model\.safetensors is damaged"):
        load_scorer(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputFault, match=r"model\.safetensors is missing"):
        load_scorer(str(folder))
    with pytest.raises(InputFault, match="micro-dino"):
        load_scorer("no-such-scorer")
