"""experiments/gallery.py: arrays equal to NumPy and SciPy, pictures, bad input."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate
from scipy.signal import correlate2d
from tests.support.tiny_runs import end, start_python

from cnn_jax import ops
from cnn_jax.errors import InputError, RunError
from cnn_jax.ops.filters import kernel
from experiments import gallery

NAMES = {"sharpness", "vertical edge", "surround", "sobel y", "nothing",
         "horizontal edge", "blur", "sobel x", "embossing"}


@pytest.fixture(scope="module")
def picture():
    """Draws a colour picture of 13 x 18 pixels, whose three channels differ."""
    return np.random.default_rng(0).integers(0, 256, (13, 18, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def learned():
    return gallery.learn_kernel(gallery.circle())


def test_nine_kernels_with_padding(picture):
    grey = gallery.to_grey(picture)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, picture @ weights / 255, atol=1 / 255)
    images = gallery.filtered(grey)
    assert set(images) == set(ops.FILTERS) == NAMES
    for name, y in images.items():
        expected = correlate(grey.astype(float), np.array(ops.FILTERS[name], float),
                             mode="constant")
        np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name, channels, pattern", [
    ("blurr", 1, "'blurr'.*sharpness"), ("blur", 0, "channels 0"),
    ("blur", 1.5, "channels 1.5"), ("blur", True, "True")])
def test_unknown_kernels_and_bad_channels_are_refused(name, channels, pattern):
    with pytest.raises(ValueError, match=pattern):
        kernel(name, channels)


def test_stages_of_a_layer(picture):
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    y = sum(correlate2d(picture[..., c] / 255, sobel, "valid") for c in range(3))
    relu = np.maximum(y, 0)
    pool = relu[:10].reshape(5, 2, 8, 2).max((1, 3))  # row 10 fills no window
    maps = gallery.feature_maps(picture)
    assert list(maps) == ["convolution", "ReLU", "max pool"]
    for ours, expected in zip(maps.values(), (y, relu, pool)):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def descend(x, true, w, steps: int):
    """Descends by the tutorial's loop, in float64; returns losses and the last kernel.
    """
    y, losses = correlate2d(x, true, "valid"), []
    for _ in range(steps):
        delta = correlate2d(x, w, "valid") - y
        losses.append(np.sum(delta ** 2) / 2 / delta.size)
        w = w - 0.5 * correlate2d(x, delta, "valid") / delta.size
    return losses, w


def test_each_step_is_the_tutorials(learned):
    x = gallery.circle().astype(float)
    np.testing.assert_array_equal(learned.true, [[0, -1, 0], [0, 2, 0], [0, -1, 0]])
    losses, _ = descend(x, learned.true, learned.first.astype(float), 500)
    np.testing.assert_allclose(learned.losses[:500], losses, rtol=1e-3)
    few = gallery.learn_kernel(gallery.circle(), most_steps=40)
    losses, w = descend(x, few.true, few.first.astype(float), 40)
    assert len(few.losses) == 41 and not few.converged
    np.testing.assert_allclose(few.kernel, w, atol=1e-5)


@pytest.mark.parametrize("seed", [
    0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_kernel_is_learned(seed):
    learned = gallery.learn_kernel(gallery.circle(), seed=seed)
    assert learned.converged and 100 < len(learned.losses) - 1 < 10_000
    assert learned.losses[-1] < 1e-7 <= learned.losses[:-1].min()
    np.testing.assert_allclose(learned.kernel, learned.true, atol=1e-2)
    np.testing.assert_allclose(learned.output, learned.target, atol=1e-2)
    assert np.abs(learned.first - learned.true).max() > 1
    expected = correlate2d(gallery.circle(), learned.kernel, "valid")
    np.testing.assert_allclose(learned.output, expected, atol=1e-5)


def test_first_kernels_are_small_normal_draws():
    draws = np.array([gallery.learn_kernel(gallery.circle(8), seed=seed,
                                           most_steps=1).first for seed in range(60)])
    assert abs(draws.mean()) < 0.01 and abs(draws.std() - 0.1) < 0.01


def test_another_kernel_and_the_largest_rate():
    """A rate below 2 / c converges for any kernel; a larger one is seen to diverge."""
    rng = np.random.default_rng(0)
    x, true = rng.random((20, 20)), rng.normal(size=(3, 3))
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3)).reshape(-1, 9)
    most = 2 / np.linalg.eigvalsh(patches.T @ patches / len(patches)).max()
    x, true = x.astype(np.float32), true.astype(np.float32)
    below = gallery.learn_kernel(x, true, rate=0.95 * most)
    np.testing.assert_allclose(below.kernel, true, atol=1e-2)
    assert below.converged
    above = gallery.learn_kernel(x, true, rate=1.05 * most)
    assert not above.converged and not above.losses[-1] < above.losses[0]


def test_pictures_are_drawn(tmp_path, picture, capsys):
    file = tmp_path / "small.png"
    Image.fromarray(picture).save(file)
    gallery.main([f"--image={file}", f"--out={tmp_path}/deep/out", "--seed=3"])
    output = capsys.readouterr().out
    assert "kernel learned in " in output
    for name in ("filters", "feature_maps", "learning"):
        path = tmp_path / "deep" / "out" / f"{name}.png"
        assert str(path) in output
        with Image.open(path) as image:
            assert min(image.size) > 500
            assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_the_range_from_black_to_white():
    y = np.array([[-3.0, 1.0], [2.0, 0.0]])
    assert gallery.shown_range(y, 1.0) == (0.0, 1.0)
    assert gallery.shown_range(y, -1.0) == (-1.0, 0.0)
    low, high = gallery.shown_range(y, 0.0)
    assert low == -high and 2.9 < high <= 3
    assert gallery.shown_range(0 * y, 0.0) == (-1.0, 1.0)


def test_large_pictures_are_reduced(tmp_path):
    Image.new("L", (1500, 300)).save(tmp_path / "wide.png")
    assert gallery.load_picture(tmp_path / "wide.png").shape == (128, 640, 3)
    assert gallery.load_picture().shape == (427, 640, 3)


def test_bad_input(tmp_path, picture):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(picture[:3]).save(tmp_path / "flat.png")
    for pattern, flags in (
            ("none.png", ["--image", "none.png"]),
            ("text.png", ["--image", "text.png"]),
            ("18 x 3 .*4 x 4", ["--image", "flat.png"]),
            ("--out=.*text.png", ["--out", "text.png"])):
        with pytest.raises(InputError, match=pattern) as caught:
            gallery.main([flags[0], str(tmp_path / flags[1])])
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_kernel_that_does_not_converge_is_an_error(tmp_path, monkeypatch, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    stopped = gallery.learn_kernel(gallery.circle(), most_steps=10)
    monkeypatch.setattr(gallery, "learn_kernel", lambda grey, seed: stopped)
    with pytest.raises(RunError, match="loss .* 10 steps"):
        gallery.main([f"--out={tmp_path}", f"--image={tmp_path}/a.png"])


@pytest.mark.slow
def test_exit_code(tmp_path):
    code, output, errors = end(start_python(
        "experiments/gallery.py", f"--image={tmp_path}/none.png"))
    assert code == 2 and not output
    assert errors.startswith("gallery.py: ") and errors.count("\n") == 1
