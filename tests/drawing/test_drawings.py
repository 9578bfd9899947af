"""The style of drawings, from drawings whose style is known."""

import numpy as np
import pytest
from PIL import Image

from cnnlab.data.sources.digits import digits
from cnnlab.drawing.drawings import DrawingStyle, drawing_style


def strokes(count: int, side: int, ground: int, ink: int, centred: str, seed: int = 0) -> list[Image.Image]:
    """L-shapes, 20 pixels high and of random width, with their box or their centre of mass in the middle."""
    rng = np.random.default_rng(seed)
    pictures = []
    for width in rng.integers(8, 20, count):
        mask = np.zeros((20, width), bool)
        mask[:, :3] = mask[-3:] = True
        rows, columns = np.nonzero(mask)
        middle = (10, width / 2) if centred == "box" else (rows.mean() + 0.5, columns.mean() + 0.5)
        top, left = (round(side / 2 - place) for place in middle)
        pixels = np.full((side, side), ground, np.uint8)
        pixels[top : top + 20, left : left + width][mask] = ink
        pictures.append(Image.fromarray(pixels))
    return pictures


@pytest.mark.parametrize("centred", ["box", "mass"])
@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (250, 20)])
def test_style_of_strokes(centred, ground, ink):
    style = drawing_style(strokes(60, 40, ground, ink, centred))
    assert style.side == 40
    assert style.background == pytest.approx(ground / 255)
    assert style.ink == (1.0 if ground == 0 else 0.0)
    assert style.extent == pytest.approx(20 / 40)
    assert style.centre == centred
    assert style.at == pytest.approx((0.5, 0.5), abs=0.02)


def test_digits_of_scikit_learn_fill_the_frame():
    images = digits().train
    style = drawing_style([images.load(index, 1) for index in range(200)])
    assert (style.side, style.background, style.ink, style.extent, style.centre) == (8, 0.0, 1.0, 1.0, "box")


def test_digits_of_mnist_are_centred_by_mass_in_a_box_of_20_pixels(shared_data):
    from cnnlab.data.sources.mnist import mnist

    images = mnist(str(shared_data)).train
    style = drawing_style([images.load(index, 1) for index in range(200)])
    assert style == DrawingStyle(28, 0.0, 1.0, 20 / 28, "mass", style.at)
    assert style.at == pytest.approx((0.5, 0.5), abs=0.03)


def test_photos_and_pictures_of_several_sizes_have_no_style():
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)) for _ in range(20)]
    assert drawing_style(photos) is None
    assert drawing_style([Image.new("L", (20, 20)), Image.new("L", (20, 30))]) is None
    assert drawing_style([Image.new("RGB", (20, 20))]) is None
    assert drawing_style([Image.new("L", (20, 20))]) is None
