"""Changes the colours of images [N, H, W, C], each by its own amount, inside jit.

Pixels are float32 from 0 to 255 and C is 1 or 3. The operations are those of
`torchvision.transforms.v2.functional` on float images. `posterize` and `equalize` are
those on uint8 images, so their pixels are whole numbers. The grey of an image with one
channel is the image.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

LEVELS = 256
# The operations that blend an image with another one; hue is not a blend.
BLENDS = ("brightness", "contrast", "saturation")
JITTERS = (*BLENDS, "hue")


def active_jitters(settings: ConfigDict) -> tuple[str, ...]:
    """Lists the operations of the colour jitter that the settings ask for."""
    return tuple(name for name in JITTERS if settings[name] > 0)


def colour_jitter(keys: jax.Array, images: jax.Array,
                  settings: ConfigDict) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image in random order.

    As in torchvision's ColorJitter, the first three change by factors drawn from
    [max(0, 1 - b), 1 + b] and hue by a turn drawn from [-h, h], where b and h are the
    settings of these names. An operation whose setting is 0 is left out.

    keys: one for each image, [N].
    """
    active = active_jitters(settings)
    amounts, ranks = jax.vmap(lambda key: draw_jitter(key, settings))(keys)
    chosen = jnp.array([JITTERS.index(name) for name in active])
    blends = [name for name in active if name in BLENDS]
    # order[:, k]: which of the blends comes k-th. Hue, the most expensive operation,
    # is computed once, between the blends before and after it.
    order = jnp.argsort(ranks[:, chosen[:len(blends)]], axis=1)
    before = jnp.full(len(images), len(blends))
    if "hue" in active:
        before = (ranks[:, chosen[:-1]] < ranks[:, chosen[-1:]]).sum(1)

    def blend_at(images: jax.Array, position: int, enabled: jax.Array) -> jax.Array:
        which = order[:, position]
        factors = jnp.take_along_axis(amounts[:, chosen], which[:, None], 1)[:, 0]
        others = jnp.zeros(())
        for index, name in enumerate(blends):
            if name != "brightness":
                other = {"contrast": mean_grey, "saturation": grey}[name](images)
                others = jnp.where(per_image(which == index), other, others)
        return blend(images, others, jnp.where(enabled, factors, 1.0))

    for position in range(len(blends)):
        images = blend_at(images, position, position < before)
    if "hue" in active:
        images = adjust_hue(images, amounts[:, JITTERS.index("hue")])
        for position in range(len(blends)):
            images = blend_at(images, position, position >= before)
    return images


def draw_jitter(key: jax.Array, settings: ConfigDict) -> tuple[jax.Array, jax.Array]:
    """Draws the amount of each operation in `JITTERS`, and the order: their ranks [4].
    """
    order_key, amount_key = jax.random.split(key)
    ranges = [(max(0.0, 1 - settings[name]), 1 + settings[name]) for name in BLENDS]
    low, high = jnp.array([*ranges, (-settings.hue, settings.hue)], jnp.float32).T
    amounts = low + (high - low) * jax.random.uniform(amount_key, (len(JITTERS),))
    return amounts, jax.random.permutation(order_key, len(JITTERS))


def per_image(values: jax.Array) -> jax.Array:
    """Reshapes values [N] to [N, 1, 1, 1], to broadcast against images [N, H, W, C]."""
    return values[:, None, None, None]


def blend(images: jax.Array, others: jax.Array, factors: jax.Array) -> jax.Array:
    """Computes factor * image + (1 - factor) * other, clipped to 0..255."""
    factors = per_image(factors)
    # Rank promotion is explicit: `others` may lack axes or channels.
    others = jnp.broadcast_to(others, images.shape)
    return jnp.clip(factors * images + (1 - factors) * others, 0, 255)


def grey(images: jax.Array) -> jax.Array:
    """Computes 0.2989 R + 0.587 G + 0.114 B, [N, H, W, 1]."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = jnp.split(images, 3, -1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def mean_grey(images: jax.Array) -> jax.Array:
    """Computes the mean of an image's grey, [N, 1, 1, 1]."""
    return grey(images).mean((1, 2, 3), keepdims=True)


def smoothed(images: jax.Array) -> jax.Array:
    """Averages 3 x 3 pixels with the weight 5 in the middle and 1 around, over 13.

    Pixels at the border, and images of less than 3 x 3 pixels, do not change.
    """
    if min(images.shape[1:3]) < 3:
        return images
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (total + 4 * images[:, 1:-1, 1:-1]) / 13
    return images.at[:, 1:-1, 1:-1].set(inner)


def adjust_brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with black, by factors [N]; 1 changes nothing."""
    return blend(images, jnp.zeros(()), factors)


def adjust_contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with the mean grey, by factors [N]; 1 changes nothing."""
    return blend(images, mean_grey(images), factors)


def adjust_saturation(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with the grey image, by factors [N]; 1 changes nothing."""
    return blend(images, grey(images), factors)


def adjust_sharpness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with the smoothed image, by factors [N]; 1 changes nothing."""
    return blend(images, smoothed(images), factors)


def adjust_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of RGB images by `turns` [N] of the colour circle, 0.5 is half.

    In the hexagonal model, with value v = max(R, G, B) and chroma c = v - min(R, G, B),
    a channel is v - c * clip(min(k, 4 - k), 0, 1), where k = (n + 6 hue) mod 6 and n is
    5 for red, 3 for green and 1 for blue.
    """
    red, green, blue = jnp.split(images, 3, -1)
    value = images.max(-1, keepdims=True)
    chroma = value - images.min(-1, keepdims=True)
    divisor = jnp.where(chroma == 0, 1.0, chroma)
    sixths = jnp.where(
        red >= jnp.maximum(green, blue), (green - blue) / divisor,
        jnp.where(green >= blue, (blue - red) / divisor + 2,
                  (red - green) / divisor + 4))
    sixths += 6 * per_image(turns)
    phases = jnp.mod(sixths + jnp.array([5.0, 3.0, 1.0])[None, None, None], 6)
    return value - chroma * jnp.clip(jnp.minimum(phases, 4 - phases), 0, 1)


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` [N] of each pixel of 8 bits; pixels are whole numbers.
    """
    steps = per_image(2.0 ** (8 - bits))
    return jnp.floor(images / steps) * steps


def solarize(images: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Inverts the pixels that are not below a threshold [N]."""
    return jnp.where(images >= per_image(thresholds), 255 - images, images)


def autocontrast(images: jax.Array) -> jax.Array:
    """Maps the darkest pixel of each channel to 0 and the brightest to 255.

    A channel of one value does not change.
    """
    low = images.min((1, 2), keepdims=True)
    spread = images.max((1, 2), keepdims=True) - low
    stretched = (images - low) / jnp.where(spread == 0, 1.0, spread) * 255
    return jnp.where(spread == 0, images, jnp.clip(stretched, 0, 255))


def equalize(images: jax.Array) -> jax.Array:
    """Flattens the histogram of each channel as Pillow does; pixels are whole numbers.

    With the number h(v) of pixels of value v, all pixels n and the brightest value b,
    the step is s = (n - h(b)) // 255, and v becomes

        min(255, (h(0) + ... + h(v - 1) + s // 2) // s).

    A channel whose step is 0 does not change.
    """
    count, height, width, channels = images.shape
    values = images.astype(jnp.int32).reshape(count, height * width, channels)
    histograms = jax.vmap(jax.vmap(histogram, in_axes=-1, out_axes=-1))(values)
    sums = histograms.cumsum(1)  # [N, LEVELS, C]
    brightest = sums.argmax(1, keepdims=True)
    steps = (height * width
             - jnp.take_along_axis(histograms, brightest, 1)) // (LEVELS - 1)
    below = jnp.pad(sums[:, :-1], ((0, 0), (1, 0), (0, 0)))
    table = jnp.where(
        steps == 0, jnp.arange(LEVELS)[None, :, None],
        jnp.minimum(LEVELS - 1, (below + steps // 2) // jnp.maximum(steps, 1)))
    return jnp.take_along_axis(table, values, 1).reshape(images.shape).astype(
        jnp.float32)


def histogram(values: jax.Array) -> jax.Array:
    """Counts the pixels of each value 0..255, int32 [LEVELS]."""
    return jnp.zeros(LEVELS, jnp.int32).at[values].add(1)
