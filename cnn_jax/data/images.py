"""Decodes pictures, converts their colour and resizes them: files -> uint8 arrays.

Stored sets, folders of pictures and the pictures to predict all pass through this one
conversion, so that a network sees at prediction what it was trained on.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from cnn_jax.data.crops import CropBox
from cnn_jax.errors import InputError

try:
    import simplejpeg
except ImportError:  # the extra `fast_jpeg` is not installed
    simplejpeg = None

__all__ = ["read_image"]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
              ".webp")
# The decoders that may be used, whatever a file's name. That of EPS runs a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * 2**30  # of all images of a set, which are one array in memory

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = {1: "L", 3: "RGB"}
# (height, width) of an upright picture -> the part of it that is resized; see crops.py
Crop = Callable[[int, int], CropBox]


class Preprocessing(NamedTuple):
    """Says how a picture becomes pixels of the shape that a network takes.

    size: (height, width) in pixels; None keeps the picture's.
    channels: 1 grey, 3 RGB, None as stored.
    shorter_side: pixels. The picture is resized to this shorter side with its aspect
        ratio, then `size` is cut from its centre, as torchvision's Resize and
        CenterCrop do. None: it is resized to `size`, whatever its aspect ratio.
    interpolation: a name in `INTERPOLATIONS`; all but nearest are antialiased.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    shorter_side: int | None = None
    interpolation: str = "bilinear"

    def changes(self, shape: tuple[int, ...]) -> bool:
        """Tells whether images of this shape (H, W, C) are changed."""
        height, width, depth = shape
        target = (*(self.size or (height, width)), self.channels or depth)
        return self.shorter_side is not None or target != (height, width, depth)


# Pillow only warns when a small file decodes to a huge picture.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def preprocessing_of(config: ConfigDict) -> Preprocessing:
    """Returns the preprocessing that the `data` config asks for."""
    return Preprocessing(config.image_size, config.channels, config.shorter_side,
                         config.interpolation)


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the picture files that `paths` name, and those in folders.

    A file may have any extension. In a folder it finds all files with one of
    `EXTENSIONS`, at any depth, sorted by path.

    Raises:
        InputError: a path that does not exist, a folder without a picture, or no path.
    """
    pictures: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if is_image(p))
            if not inside:
                raise InputError(
                    f"{path} holds no picture; name a folder with files that end in "
                    f'{", ".join(EXTENSIONS)}')
            pictures += inside
        elif path.is_file():
            pictures.append(path)
        else:
            raise InputError(f"{path} does not exist; name a picture or a folder")
    if not pictures:
        raise InputError("no picture was named; name at least one file or folder")
    return pictures


def is_image(path: Path) -> bool:
    """Tells whether a path is a file with a picture's name."""
    return is_image_name(path.name) and path.is_file()


def is_image_name(name: str) -> bool:
    """Tells whether a name has a picture's extension and is not hidden, like ._x.jpg.
    """
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_image(file: str | Path | BinaryIO,
               preprocessing: Preprocessing = Preprocessing(),
               name: object = "", crop: Crop | None = None) -> np.ndarray:
    """Decodes one picture and preprocesses it.

    The EXIF orientation is applied. Colour becomes grey by Pillow's 'L' weights
    (0.299 R + 0.587 G + 0.114 B). Palettes and CMYK become RGB. Transparent pixels are
    blended with white. 16-bit values keep their high byte. An animation gives its first
    frame.

    Args:
        file: a path or an open binary file; its content decides, not its extension.
        preprocessing: size and channels of the result; by default those of the file.
        name: for messages, instead of the path.
        crop: chooses the box that is cut out and resized to `preprocessing.size`;
            `shorter_side` then has no effect.

    Returns:
        uint8 [H, W, C].

    Raises:
        InputError: a file that is not a picture, is damaged, has more than
            `MAX_PIXELS` pixels, or has 32-bit pixels, whose range is unknown.
    """
    path = name or file
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{path} has {width} x {height} pixels, over the limit of "
                    f"{MAX_PIXELS:,}; make it smaller")
            pixels = _decode_jpeg(opened)
            image: Image.Image = opened
            if pixels is None:
                opened.load()  # a PNG may have its orientation at its end
            upright = opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if pixels is not None:
                if upright:
                    if crop:  # before anything is copied
                        preprocessing = preprocessing._replace(
                            size=preprocessing.size or pixels.shape[:2],
                            shorter_side=None)
                        pixels, crop = _cut(pixels, crop(*pixels.shape[:2])), None
                    if not preprocessing.changes(pixels.shape):
                        return pixels
                image = _from_array(pixels)
                image.info = opened.info  # has the EXIF orientation
            if not upright:
                image = ImageOps.exif_transpose(image)
            image = _plain(image, path)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} has over {MAX_PIXELS:,} pixels, the limit; make it smaller"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; name a picture") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} cannot be read as a picture (its content is none of "
                         f"{', '.join(_FORMATS)}); remove or replace it") from error
    except Exception as error:  # hostile bytes make decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as a picture ({reason}); remove or replace it"
        ) from error
    return _to_array(_convert(image, preprocessing, crop))


def convert_images(images: np.ndarray, preprocessing: Preprocessing,
                   crop: Crop | None = None) -> np.ndarray:
    """Preprocesses stored images exactly as `read_image` does.

    Args:
        images: uint8 [N, H, W, C] with C = 1 or 3.
        preprocessing: size and channels of the result.
        crop: chooses the box of each image, as in `read_image`.

    Returns:
        uint8 [N, height, width, channels]; `images` itself if nothing changes.
    """
    count, height, width, depth = images.shape
    if not (crop or preprocessing.changes(images.shape[1:])):
        return images
    converted = allocate(count, (*(preprocessing.size or (height, width)),
                                 preprocessing.channels or depth))
    for index, pixels in enumerate(images):
        converted[index] = _to_array(
            _convert(_from_array(pixels), preprocessing, crop))
    return converted


def allocate(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Allocates uint8 [count, H, W, C]. Raises InputError above `MAX_BYTES`."""
    size_bytes = count * math.prod(shape)
    if size_bytes > MAX_BYTES:
        raise InputError(
            f"{count:,} images of {shape} would take {size_bytes / 2**30:.1f} GiB; "
            f"the limit is {MAX_BYTES / 2**30:.0f}: set data.stream=true, or choose a "
            "smaller data.image_size")
    return np.empty((count, *shape), np.uint8)


def _decode_jpeg(opened: ImageFile.ImageFile) -> np.ndarray | None:
    """Decodes an opened picture by simplejpeg: uint8 [H, W, C], not yet upright.

    The pixels equal Pillow's, since both use libjpeg-turbo. But no image of Pillow is
    made, which would take longer than decoding. None: Pillow must decode the picture,
    because it is no JPEG, is CMYK, or has a fault, which may be harmless.
    """
    if (not simplejpeg or opened.format != "JPEG" or opened.fp is None
            or opened.mode not in ("L", "RGB")):
        return None
    opened.fp.seek(0)
    try:
        return simplejpeg.decode_jpeg(
            opened.fp.read(), "GRAY" if opened.mode == "L" else "RGB")
    except ValueError:
        return None


def _cut(pixels: np.ndarray, box: CropBox) -> np.ndarray:
    top, left, height, width = box
    return pixels[top:top + height, left:left + width]


def _plain(image: Image.Image, path: object) -> Image.Image:
    """Converts any mode that Pillow reads to 'L' or 'RGB'."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"{path} has 32-bit pixels, whose range is unknown; save it with 8 or "
            "16 bits")
    grey = image.mode in _GREY
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)  # convert() copies


def _convert(image: Image.Image, preprocessing: Preprocessing,
             crop: Crop | None = None) -> Image.Image:
    """Converts the colour first, then the size."""
    size, channels, shorter_side, interpolation = preprocessing
    mode = _MODES[channels] if channels else image.mode
    if image.mode != mode:
        image = image.convert(mode)
    if crop is not None:
        height, width = size or (image.height, image.width)
        top, left, box_height, box_width = crop(image.height, image.width)
        image = image.crop((left, top, left + box_width, top + box_height))
        return _resize(image, (width, height), interpolation)
    if shorter_side is not None:
        image = _resize(image, _keeping_ratio(image.size, shorter_side), interpolation)
        return _centre_crop(image, size) if size else image
    height, width = size or (image.height, image.width)
    return _resize(image, (width, height), interpolation)


def _resize(image: Image.Image, size: tuple[int, int],
            interpolation: str) -> Image.Image:
    """Resizes to (width, height)."""
    if image.size == size:
        return image
    return image.resize(size, INTERPOLATIONS[interpolation])


def _keeping_ratio(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Scales (width, height) to a shorter side; the longer one is rounded down."""
    short = min(size)
    width, height = (shorter_side * side // short for side in size)
    return width, height


def _centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cuts (height, width) from the centre; a half pixel is rounded to even."""
    height, width = size
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _from_array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)
