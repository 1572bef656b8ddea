import builtins
import dataclasses
import math

import pytest
import torch

from trimtab.demo.vision import (
    NUM_SHOWN,
    VisionSize,
    load_digits,
    normalize_contrast,
    shift_images,
    vision_task,
)
from trimtab.errors import MissingDependencyError


def test_a_missing_scikit_learn_is_named_with_its_extra(monkeypatch):
    real_import = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(MissingDependencyError, match=r"trimtab\[digits\]"):
        load_digits()


def test_a_shift_moves_pixels_and_cuts_off_what_leaves():
    images = torch.zeros(500, 8, 8)
    images[:, 3, 4] = 5.0
    moved = shift_images(images, torch.Generator().manual_seed(0), 3.0)
    num_left = (moved > 0).sum((1, 2))
    assert set(num_left.tolist()) == {0, 1}
    places = {tuple(place) for place in (moved > 0).nonzero()[:, 1:].tolist()}
    assert len(places) > 40
    assert torch.equal(shift_images(images, torch.Generator().manual_seed(0), 0.0), images)


def test_shift_direction_matches_roll():
    images = torch.zeros(64, 8, 8)
    images[:, 4, 4] = 1.0
    generator = torch.Generator().manual_seed(7)
    down, right = torch.randn(2, 64, 1, generator=generator).round().long()
    moved = shift_images(images, torch.Generator().manual_seed(7), 1.0)
    for image, d, r in zip(moved, down, right, strict=True):
        assert image.nonzero().tolist() == [[4 + d.item(), 4 + r.item()]]


def test_only_a_blank_image_has_no_contrast():
    images = torch.zeros(3, 8, 8)
    images[0, 0, 0] = 16.0
    images[2, 1:5, 3] = 0.5
    normalized = normalize_contrast(images)
    assert normalized[1].isnan().all()
    assert normalized[[0, 2]].isfinite().all()
    assert normalized[2].max() == 1.0


pytest.importorskip("sklearn")


def test_digits_are_split_without_overlap():
    training, held_out = load_digits()
    assert (len(training.labels), len(held_out.labels)) == (1437, 360)
    assert training.images.shape == (1437, 8, 8)


def test_score_and_sample_of_a_healthy_and_a_broken_model():
    task = vision_task(VisionSize(width=16, num_blocks=1, num_heads=2))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = task.build_model()
    assert 0.0 <= task.score(model).value < 0.5
    lines = task.sample(model, 0).splitlines()
    assert len(lines) == 9
    assert lines[-1].count("read as") == NUM_SHOWN
    with torch.no_grad():
        model.embed.bias[0] = math.nan
    assert math.isnan(task.score(model).value)
    assert task.sample(model, 0) == ""


def test_a_blank_image_makes_nan_of_the_loss():
    task = dataclasses.replace(vision_task(VisionSize(width=16, num_blocks=1, num_heads=2)))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = task.build_model()
    images = torch.zeros(2, 8, 8)
    images[0, 2, 2] = 1.0
    labels = torch.tensor([1, 2])
    assert task.loss(model, (normalize_contrast(images), labels)).isnan()
    assert task.loss(model, (normalize_contrast(images[:1]), labels[:1])).isfinite()
