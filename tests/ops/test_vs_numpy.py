"""The operations equal cases worked by hand and formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.ops.conv.im2col import col2im, im2col
from cnn_jax.ops.conv import conv_spec, im2col as conv_im2col
from tests.support.gradcheck import compiled, relative_error

# The hand-worked cases are written [N, C, H, W] and [O, C, H, W], as published.
EXACT = [name for name in ops.ALGORITHMS if name != "winograd"]


def nhwc(a):
    return jnp.asarray(np.asarray(a, np.float32).transpose(0, 2, 3, 1))


def hwio(a):
    return jnp.asarray(np.asarray(a, np.float32).transpose(2, 3, 1, 0))


def counting(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


def passes(implementation, x, w, g=None, padding="VALID"):
    """Computes y, dx, dw and db in the published layouts."""
    if implementation == "numba":
        pytest.importorskip("numba")
    b = jnp.zeros(len(w))

    def conv(x, w, b):
        return ops.correlate(x, w, b, padding=padding, implementation=implementation)

    @compiled
    def run(*args):
        y, vjp = jax.vjp(conv, *args)
        return y, *vjp(jnp.ones_like(y) if g is None else nhwc(g))

    y, dx, dw, db = run(nhwc(x), hwio(w), b)
    y, dx = (np.asarray(a).transpose(0, 3, 1, 2) for a in (y, dx))
    return y, dx, np.asarray(dw).transpose(3, 2, 0, 1), np.asarray(db)


@pytest.mark.parametrize("name", EXACT)
def test_one_image_one_kernel(name):
    y, *_ = passes(name, counting(1, 1, 3, 3), [[[[3, 2], [1, 0]]]])
    np.testing.assert_allclose(y.ravel(), [5, 11, 23, 29], rtol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_two_images_three_channels_two_kernels(name):
    y, *_ = passes(name, counting(2, 3, 3, 3), counting(2, 3, 2, 2))
    np.testing.assert_allclose(y, [
        [[[1035, 1101], [1233, 1299]], [[2619, 2829], [3249, 3459]]],
        [[[2817, 2883], [3015, 3081]], [[8289, 8499], [8919, 9129]]]], rtol=1e-6)


def test_im2col_and_col2im():
    x, w = nhwc(counting(2, 3, 3, 3)), hwio(counting(2, 3, 2, 2))
    spec = conv_spec(x.shape, w.shape, (1, 1), "VALID")
    cols = np.asarray(im2col(x, spec)).reshape(8, 4, 3)  # positions, taps, channels
    col = cols.swapaxes(1, 2).reshape(8, 12)  # channel by channel, as published
    np.testing.assert_array_equal(col, [
        [0, 1, 3, 4, 9, 10, 12, 13, 18, 19, 21, 22],
        [1, 2, 4, 5, 10, 11, 13, 14, 19, 20, 22, 23],
        [3, 4, 6, 7, 12, 13, 15, 16, 21, 22, 24, 25],
        [4, 5, 7, 8, 13, 14, 16, 17, 22, 23, 25, 26],
        [27, 28, 30, 31, 36, 37, 39, 40, 45, 46, 48, 49],
        [28, 29, 31, 32, 37, 38, 40, 41, 46, 47, 49, 50],
        [30, 31, 33, 34, 39, 40, 42, 43, 48, 49, 51, 52],
        [31, 32, 34, 35, 40, 41, 43, 44, 49, 50, 52, 53]])
    col_w = np.asarray(w).reshape(4, 3, 2).swapaxes(0, 1).reshape(12, 2)
    np.testing.assert_array_equal(col_w, [
        [0, 12], [1, 13], [2, 14], [3, 15], [4, 16], [5, 17], [6, 18], [7, 19],
        [8, 20], [9, 21], [10, 22], [11, 23]])
    y = conv_im2col.forward(x, w, spec)  # [2, 2, 2, 2]: the product of the two
    np.testing.assert_array_equal(np.asarray(y).reshape(8, 2), [
        [1035, 2619], [1101, 2829], [1233, 3249], [1299, 3459],
        [2817, 8289], [2883, 8499], [3015, 8919], [3081, 9129]])
    np.testing.assert_array_equal(col @ col_w, np.asarray(y).reshape(8, 2))
    # col2im of ones counts how many patches hold each pixel.
    ones = col2im(jnp.ones((2, 2, 2, 4, 3)), spec)
    np.testing.assert_array_equal(ones[1, :, :, 2], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


@pytest.mark.parametrize("name", EXACT)
def test_gradients_one_channel(name):
    y, dx, dw, db = passes(name, counting(1, 1, 3, 3), counting(1, 1, 2, 2),
                           counting(1, 1, 2, 2))
    assert relative_error(db, [6]) <= 1e-6
    assert relative_error(dw[0, 0], [[19, 25], [37, 43]]) <= 1e-6
    assert relative_error(dx[0, 0], [[0, 0, 1], [0, 4, 6], [4, 12, 9]]) <= 1e-6


@pytest.mark.parametrize("name", EXACT)
def test_gradients_two_images_three_channels(name):
    _, dx, dw, _ = passes(name, counting(2, 3, 3, 3), counting(2, 3, 2, 2),
                          counting(2, 2, 2, 2))
    expected = [  # the published gradient is a batch mean
        [[[564, 586], [630, 652]], [[762, 784], [828, 850]],
         [[960, 982], [1026, 1048]]],
        [[[812, 850], [926, 964]], [[1154, 1192], [1268, 1306]],
         [[1496, 1534], [1610, 1648]]]]
    assert relative_error(dw / 2, expected) <= 1e-6
    expected = [[[48, 112, 66], [128, 296, 172], [88, 200, 114]],
                [[144, 320, 178], [352, 776, 428], [216, 472, 258]]]
    assert relative_error(dx[:, 0], expected) <= 1e-6


@pytest.mark.parametrize("name", ["loops", "winograd", "im2col", "lax"])
def test_winograd_case_by_hand(name):
    w = np.zeros((1, 1, 3, 3))
    w[0, 0] = [[1, 2, 0], [0, -1, 0], [3, 0, 0]]
    y, dx, dw, _ = passes(name, counting(1, 1, 4, 5), w)
    # y[i, j] = x[i, j] + 2 x[i, j+1] - x[i+1, j+1] + 3 x[i+2, j]
    assert relative_error(y[0, 0], [[26, 31, 36], [51, 56, 61]]) <= 1e-6
    assert relative_error(dw[0, 0], [
        [21, 27, 33], [51, 57, 63], [81, 87, 93]]) <= 1e-6
    assert relative_error(dx[0, 0], [
        [1, 3, 3, 2, 0], [1, 2, 2, 1, 0], [3, 2, 2, -1, 0], [3, 3, 3, 0, 0]]) <= 1e-6


def test_the_sum_of_two_dice():
    die = jnp.full((1, 6, 1), 1 / 6)
    chances = ops.convolve(die, die.reshape(6, 1, 1), padding=5)
    ways = [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]
    np.testing.assert_allclose(chances.ravel() * 36, ways, rtol=1e-5)
    # A loaded die tells convolution from correlation: 1 and then 6 is not 6 then 1.
    loaded = jnp.array([.5, .1, .1, .1, .1, .1])
    chances = ops.convolve(loaded.reshape(1, 6, 1), loaded.reshape(6, 1, 1), padding=5)
    np.testing.assert_allclose(chances.ravel(), np.convolve(loaded, loaded), rtol=1e-5)


def test_the_nine_filters():
    image = jnp.asarray(counting(1, 4, 4, 1) ** 2, jnp.float32)
    assert len(ops.FILTERS) == 9
    actual = {name: float(ops.correlate(image, ops.filters.kernel(name))[0, 0, 1, 0])
              for name in ops.FILTERS}
    # Around the pixel 6^2: 1 4 9 / 25 36 49 / 81 100 121.
    assert actual == pytest.approx({
        "sharpness": 2., "vertical edge": -2., "surround": 66., "sobel y": 384.,
        "nothing": 36., "horizontal edge": -32., "blur": 46.86, "sobel x": 96.,
        "embossing": -155.})


# Pooling.

@pytest.mark.parametrize("name", ops.POOLS)
def test_max_pool_of_three_images_and_two_channels(name):
    y, vjp = jax.vjp(lambda x: ops.max_pool(x, 2, 2, implementation=name),
                     nhwc(counting(3, 2, 4, 4)))
    np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), [
        [[[5, 7], [13, 15]], [[21, 23], [29, 31]]],
        [[[37, 39], [45, 47]], [[53, 55], [61, 63]]],
        [[[69, 71], [77, 79]], [[85, 87], [93, 95]]]])
    dx, = vjp(jnp.ones_like(y))
    one = [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]]
    np.testing.assert_array_equal(dx.transpose(0, 3, 1, 2), [[one, one]] * 3)


def test_max_pool_ties_and_overlap_by_hand():
    x = jnp.array([[1, 5, 5, 2], [5, 0, 5, 7], [3, 3, 7, 7]], jnp.float32)
    for name in ops.POOLS:
        y, vjp = jax.vjp(lambda x: ops.max_pool(
            x[None, :, :, None], 2, 1, implementation=name)[0, :, :, 0], x)
        np.testing.assert_array_equal(y, [[5, 5, 7], [5, 7, 7]])
        dx, = vjp(jnp.array([[1., 2., 4.], [8., 16., 32.]]))
        # First maxima in row order: (0,1) twice, (1,3); then (1,0), (2,2), (1,3).
        np.testing.assert_array_equal(dx, [[0, 3, 0, 0], [8, 0, 0, 36], [0, 0, 16, 0]])


@pytest.mark.parametrize("name", ops.POOLS)
def test_dilated_pools_and_indices_by_hand(name):
    x = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9.]])[None, ..., None]

    @compiled
    def run(x):
        options = dict(window=2, strides=1, dilation=2, implementation=name)
        y, vjp, index = jax.vjp(
            lambda x: ops.max_pool_with_indices(x, **options), x, has_aux=True)
        far = ops.max_pool_with_indices(
            x, (1, 2), (1, 3), ((0, 0), (2, 1)), ceil_mode=True, dilation=(1, 2),
            implementation=name)
        return (y, index, *vjp(jnp.array([1., 2, 4]).reshape(y.shape)),
                ops.avg_pool(x, **options), *far)

    y, index, dx, mean, far, far_index = (a[0, ..., 0] for a in run(x))
    # The corners of each 3 x 3 block: 3 4 5 9, 1 1 8 7, 4 5 9 9.
    np.testing.assert_array_equal(y, [[9, 8, 9]])
    np.testing.assert_array_equal(index, [[12, 11, 12]])  # 5 row + column
    np.testing.assert_array_equal(dx, [[0] * 5, [0] * 5, [0, 2, 5, 0, 0]])
    np.testing.assert_allclose(mean, [[21 / 4, 17 / 4, 27 / 4]], rtol=1e-6)
    # Columns -2 and 0, 1 and 3; in ceil mode 4 and 6 too.
    np.testing.assert_array_equal(far, [[3, 1, 5], [9, 5, 3], [5, 8, 9]])
    np.testing.assert_array_equal(far_index, [[0, 1, 4], [5, 8, 9], [10, 11, 14]])


def test_average_pool_by_hand():
    x = jnp.arange(1., 10.).reshape(1, 3, 3, 1)

    def pool(**options):
        return {name: ops.avg_pool(x, 2, 2, implementation=name, **options)[0, :, :, 0]
                for name in ops.POOLS}
    for y in pool(padding=((1, 0), (1, 0))).values():
        np.testing.assert_allclose(y, [[.25, 1.25], [2.75, 7]], rtol=1e-6)
    for y in pool(padding=((1, 0), (1, 0)), count_include_pad=False).values():
        np.testing.assert_allclose(y, [[1, 2.5], [5.5, 7]], rtol=1e-6)
    for y in pool(ceil_mode=True).values():
        np.testing.assert_allclose(y, [[3, 4.5], [7.5, 9]], rtol=1e-6)


@pytest.mark.parametrize("size, window, stride, pad, out", [
    (28, 2, 2, 0, 14), (7, 2, 2, 0, 4), (7, 3, 2, 1, 4), (6, 3, 2, 1, 4),
    (5, 2, 3, 1, 2), (4, 2, 3, 1, 2), (112, 3, 2, 0, 56), (3, 3, 2, 0, 1)])
def test_ceil_mode_sizes(size, window, stride, pad, out):
    """PyTorch's rule: the last window starts inside the image or its left padding."""
    y = ops.max_pool(jnp.zeros((1, size, 3, 1)), (window, 1), (stride, 1),
                     ((pad, pad), (0, 0)), ceil_mode=True)
    assert y.shape == (1, out, 3, 1)


def test_global_pooling_by_hand():
    x = jnp.array([[[1., 4.], [7., 4.]], [[7., 0.], [5., 4.]]])[None]
    np.testing.assert_array_equal(ops.global_avg_pool(x), [[5, 3]])
    y, vjp = jax.vjp(ops.global_max_pool, x)
    np.testing.assert_array_equal(y, [[7, 4]])
    dx, = vjp(jnp.array([[2., 3.]]))
    np.testing.assert_array_equal(dx[0], [[[0, 3], [2, 0]], [[0, 0], [0, 0]]])
    dx, = jax.vjp(ops.global_avg_pool, x)[1](jnp.array([[4., 8.]]))
    np.testing.assert_array_equal(dx[0], np.tile([1., 2.], (2, 2, 1)))
