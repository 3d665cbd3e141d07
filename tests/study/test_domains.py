"""The domains of the picture world: from a seed, captioned truly, and further from each other than from themselves."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from adapters.faults import InputFault
from study.scoring import load_scorer
from study.world.captions import WORDS
from study.world.domains import ALL, DOMAINS, domain_pictures, domain_scenes
from study.world.scene import STYLES, draw

COUNT = 40


class Features(torch.nn.Module):
    """Lets torchmetrics' Fréchet distance take features as they are."""

    num_features = 96

    def forward(self, features):
        return features


def frechet(first, second) -> float:
    metric = FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64)
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return metric.compute().item()


@pytest.fixture(scope="module")
def samples():
    """Two samples of every domain, and of the world's own styles, as features of micro-clip.

    Not of micro-dino, which was trained to know a thing again whatever it looks like.
    """
    clip = load_scorer("micro-clip")

    def drawn(name, split):
        if name in DOMAINS:
            return np.stack([picture.pixels for picture in domain_pictures(name, COUNT, split=split)])
        style = name.removeprefix("the world's ")
        scenes = domain_scenes("outline", COUNT, seed=STYLES.index(style) + 1, split=split)
        return np.stack([draw(type(scene)(**{**vars(scene), "style": style})).pixels for scene in scenes])

    names = [*DOMAINS, *(f"the world's {style}" for style in STYLES)]
    return {name: [clip.images(drawn(name, split)) for split in ("train", "real")] for name in names}


def test_there_are_eight():
    assert len(DOMAINS) == 8


def test_any_two_domains_are_further_apart_than_two_samples_of_one(samples):
    """The world's own styles count as domains here, so none of the eight is what the generator was trained on."""
    within = {name: frechet(*pair) for name, pair in samples.items()}
    for one, other in combinations(samples, 2):
        if one in DOMAINS or other in DOMAINS:
            apart = frechet(samples[one][0], samples[other][1])
            assert apart > max(within[one], within[other]), (one, other, apart, within[one], within[other])


@pytest.mark.parametrize("name", ALL)
def test_pictures_come_from_the_seed_and_no_two_are_alike(name):
    some = domain_pictures(name, 4, seed=5)
    more = domain_pictures(name, 6, seed=5)
    assert all((a.pixels == b.pixels).all() and a.caption == b.caption for a, b in zip(some, more, strict=False))
    elsewhere = [*domain_pictures(name, 6, seed=6), *domain_pictures(name, 6, seed=5, split="real")]
    assert len({picture.pixels.tobytes() for picture in [*more, *elsewhere]}) == 18
    assert {(picture.pixels.shape, picture.pixels.dtype.name) for picture in more} == {((64, 64, 3), "uint8")}


@pytest.mark.parametrize("name", ALL)
def test_a_picture_is_the_same_at_every_size(name):
    """Means over 16 x 16 blocks of the large picture are near those of the small one: same things, same tones."""
    for small, large in zip(domain_pictures(name, 3, size=64), domain_pictures(name, 3, size=128), strict=True):
        blocks = [
            picture.pixels.reshape(4, size // 4, 4, size // 4, 3).mean((1, 3))
            for picture, size in ((small, 64), (large, 128))
        ]
        assert small.caption == large.caption
        assert np.abs(blocks[0] - blocks[1]).max() < 12


def test_photos_are_the_world_as_it_is_at_every_size():
    for size in (64, 96):
        scenes, pictures = domain_scenes("photo", 3), domain_pictures("photo", 3, size=size)
        assert all((draw(scene, size).pixels == own.pixels).all() for scene, own in zip(scenes, pictures, strict=True))


def test_captions_are_the_worlds_and_name_only_what_the_style_shows():
    for name, domain in ALL.items():
        scenes, pictures = domain_scenes(name, 30), domain_pictures(name, 30, size=16)
        for scene, picture in zip(scenes, pictures, strict=True):
            words = picture.caption.split()
            assert set(words) <= set(WORDS) and words[:3] == ["a", "photo", "of"]
            assert picture.class_word == scene.kind and scene.kind in words
            assert (scene.colour in words) == ("colour" in domain.says)
            assert (scene.background in words) == ("background" in domain.says)
            assert (scene.texture in words) == ("texture" in domain.says and scene.texture != "plain")
    assert domain_pictures("outline", 1, size=16)[0].caption.count(" ") == 4


def test_every_kind_of_thing_is_among_enough_pictures():
    assert len({scene.kind for scene in domain_scenes("neon", 150)}) == 18


@pytest.mark.parametrize(
    "asked, message",
    [
        (("cubism", 3), "sketch, outline, pixel, woodcut, neon, pastel, mosaic, blueprint"),
        (("neon", 0), "at least 1"),
        (("neon", 3, 0, 64, "test"), "train, real"),
    ],
)
def test_what_there_is_not_is_refused(asked, message):
    with pytest.raises(InputFault, match=message):
        domain_pictures(*asked)
