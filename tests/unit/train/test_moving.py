"""Images that move keep their content, take the border's pixels, and move the same way for the same seed."""

import pytest
import torch

from secateurs.data import DataSpec, load_data
from secateurs.errors import RecipeError
from secateurs.models import ModelSpec, build
from secateurs.train.distillation import Distillation
from secateurs.train.loop import train
from secateurs.train.moving import moved
from secateurs.train.training import Training


def test_every_image_is_one_of_the_nine_shifts_of_one_pixel_and_all_of_them_come() -> None:
    image = torch.arange(20.0).reshape(4, 5)
    padded = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    known = [padded[i : i + 4, j : j + 5] for i in range(3) for j in range(3)]
    found = moved(image.expand(200, 2, 4, 5), 1, False, torch.Generator().manual_seed(0))
    which = [[torch.equal(each[0], one) for one in known].index(True) for each in found]
    assert set(which) == set(range(9))
    assert torch.equal(found[:, 0], found[:, 1]), "channels move together"


def test_half_are_mirrored_and_nothing_else_happens_without_a_shift() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4).expand(100, 1, 3, 4)
    found = moved(x, 0, True, torch.Generator().manual_seed(0))
    n_mirrored = sum(torch.equal(each, x[0].flip(2)) for each in found)
    assert 30 < n_mirrored < 70
    assert n_mirrored + sum(torch.equal(each, x[0]) for each in found) == 100


def test_a_training_with_moving_images_repeats_its_bits_and_differs_from_one_without() -> None:
    data = load_data(DataSpec(source="digits"))
    teacher = build(ModelSpec(name="lenet-300-100"), data.shape, 1)

    def trained(**changes: object) -> torch.Tensor:
        module = build(ModelSpec(name="lenet-300-100"), data.shape, 0)
        training = Training(epochs=0.2, distill=Distillation(), **changes)
        list(train(module, data, training, seed=0, teacher=teacher, n_looks=1))
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    still, first, again = trained(), trained(shift=1, flip=True), trained(shift=1, flip=True)
    assert torch.equal(first, again)
    assert not torch.equal(still, first)


def test_only_images_move_and_not_beyond_64_pixels() -> None:
    with pytest.raises(RecipeError, match="shift must be 0 to 64 pixels; got 65"):
        Training(shift=65)
    data = load_data(DataSpec(source="digits"))
    flat = type(data)(**{**vars(data), "x_train": data.x_train.flatten(1)})
    with pytest.raises(RecipeError, match="shift and flip move images; the examples of this data are none"):
        next(train(torch.nn.Linear(64, 10), flat, Training(shift=1), seed=0))
