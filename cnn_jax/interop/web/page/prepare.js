"use strict";
// Prepares pictures with the same steps as cnn_jax.data.images and with Pillow's
// resampling, bit for bit. The browser's own scaling differs.
//
// An image is { width, height, channels, data }; data are bytes [height, width, channels].

const STRIP = 2 ** 22;  // pixels that are drawn at once; phones limit a canvas
const BITS = 22;        // fractional bits of a weight

// Filters by name: [half width in pixels, function from distance to weight].
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => cubic(Math.abs(x), -0.5)],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x, a) {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

// Decodes a file to 1 channel (grey, Pillow's "L") or 3. The EXIF orientation is applied,
// colour profiles are not. Transparent pixels are blended with white.
async function decode(file, channels, maxPixels) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  if (width * height > maxPixels) {
    bitmap.close();
    throw new RangeError(`${width} × ${height} pixels, over the limit of ` +
      maxPixels.toLocaleString("en"));
  }
  const data = new Uint8ClampedArray(width * height * channels);
  const rows = Math.min(height, Math.max(1, Math.floor(STRIP / width)));
  const canvas = Object.assign(document.createElement("canvas"),
    { width, height: rows });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const rgba = context.getImageData(0, 0, width, count).data;
    let to = top * width * channels;
    for (let from = 0; from < rgba.length; from += 4) {
      const red = rgba[from], green = rgba[from + 1], blue = rgba[from + 2];
      if (channels === 1) {
        data[to++] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
      } else {
        data[to++] = red;
        data[to++] = green;
        data[to++] = blue;
      }
    }
  }
  bitmap.close();
  return { width, height, channels, data };
}

// Resizes an image to `size`, [height, width]. With `shorter_side`, resizes its shorter
// side to so many pixels, and then crops `size` from the centre.
function prepare(image, { size, shorter_side: side, interpolation }) {
  if (side === null) return resize(image, size[0], size[1], interpolation);
  const short = Math.min(image.width, image.height);
  const [height, width] = [image.height, image.width].map(
    (length) => Math.floor(side * length / short));
  return crop(resize(image, height, width, interpolation), ...size);
}

// Resizes one axis after the other. Values are rounded after each, so the order matters:
// Pillow 13 begins with the height if it removes more than twice as many rows as columns.
function resize(image, height, width, interpolation) {
  const { channels } = image;
  const axis = interpolation === "nearest" ? nearest : filter;
  const rows = image.height - height, columns = image.width - width;
  let data = image.data, tall = image.height;

  function resizeHeight() {
    if (tall === height) return;
    const wide = data.length / tall;
    data = axis(data, 1, tall, wide, height, interpolation);
    tall = height;
  }

  if (rows > 0 && rows > 2 * columns) resizeHeight();
  if (columns) data = axis(data, tall, image.width, channels, width, interpolation);
  resizeHeight();
  return { width, height, channels, data };
}

// Resizes the second axis of bytes [outer, length, inner] to `size`. Each result is a
// weighted mean; where the axis shrinks, the filter is stretched (antialiasing). Weights
// are rounded to 22 bits and means to bytes, as in Pillow.
function filter(data, outer, length, inner, size, interpolation) {
  const [support, weightAt] = FILTERS[interpolation];
  const scale = length / size, stretch = Math.max(1, scale);
  const result = new Uint8ClampedArray(outer * size * inner);
  for (let at = 0; at < size; at++) {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const end = Math.min(length, Math.trunc(centre + support * stretch + 0.5));
    const exact = Float64Array.from({ length: end - first }, (_, i) =>
      weightAt((first + i - centre + 0.5) * (1 / stretch)));
    const total = exact.reduce((sum, weight) => sum + weight, 0);
    const weights = Int32Array.from(exact, (weight) => {
      const scaled = (total === 0 ? weight : weight / total) * 2 ** BITS;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    for (let row = 0; row < outer; row++) {
      const source = (row * length + first) * inner, target = (row * size + at) * inner;
      for (let i = 0; i < inner; i++) {
        let sum = 2 ** (BITS - 1);
        for (let k = 0, from = source + i; k < weights.length; k++, from += inner) {
          sum += data[from] * weights[k];
        }
        result[target + i] = sum >> BITS;
      }
    }
  }
  return result;
}

function nearest(data, outer, length, inner, size) {
  const scale = length / size;
  const result = new Uint8ClampedArray(outer * size * inner);
  for (let at = 0, position = scale / 2; at < size; at++, position += scale) {
    for (let row = 0; row < outer; row++) {
      const source = (row * length + Math.floor(position)) * inner;
      result.set(data.subarray(source, source + inner), (row * size + at) * inner);
    }
  }
  return result;
}

// Crops the centre; half a pixel is rounded to even. Small images are padded with black.
function crop(image, height, width) {
  const { channels } = image;
  const top = halfToEven((image.height - height) / 2);
  const left = halfToEven((image.width - width) / 2);
  const data = new Uint8ClampedArray(height * width * channels);
  const from = Math.max(0, left), end = Math.min(image.width, left + width);
  for (let y = Math.max(0, -top); y < Math.min(height, image.height - top); y++) {
    const row = (y + top) * image.width;
    data.set(image.data.subarray((row + from) * channels, (row + end) * channels),
      (y * width + from - left) * channels);
  }
  return { width, height, channels, data };
}

function halfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
