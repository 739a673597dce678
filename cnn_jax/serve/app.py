"""Makes the web application of --mode=serve: a local page for a trained run.

    GET  /        the page; its style sheet and scripts are beside it
    GET  /about   JSON: the network, its classes and layers, the limits
    POST /answer  a picture file as the body -> JSON: what the network predicts;
                  ?layer=NAME&class=INDEX&invert=1, each of them optional

Every error is one line of JSON, {"error": ...}. Only errors of the server library, such
as for a body of several times the limit, are plain text.

The page is for the person at this machine, but other pages in the same browser can send
requests too. Requests that use a foreign host name (DNS rebinding) or come from another
page are refused.
"""

import io
import ipaddress
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import flask
import jax
import numpy as np
from matplotlib import colormaps
from PIL import Image
from werkzeug.exceptions import HTTPException

from cnn_jax import data
from cnn_jax.data.images import MAX_PIXELS, read_image
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.drawing import HEAT, HEAT_SHARE
from cnn_jax.inspection.draw.overlays import overlay
from cnn_jax.inspection.pages.rendering import data_uri
from cnn_jax.networks.named_layers import layers_in
from cnn_jax.networks.summary import kind_of
from cnn_jax.networks.trace import trace_shapes
from cnn_jax.serve.about import PAGE, describe_run
from cnn_jax.serve.answer import Answer, compile_answer, default_layer
from cnn_jax.workdir.trained import Trained

Value = TypeVar("Value")

MAX_BYTES = 20 * 2**20  # of an upload; photographs of a phone are smaller
NAMED = 2               # classes in the sentence, if an image has one class
MAPS = 64               # feature maps of a layer that are sent, at most
FEW, BEST = 12, 10      # up to FEW classes are all shown; of more, only the BEST best

FILES = {"index.html": "text/html", "page.css": "text/css",
         "drawing.js": "text/javascript", "page.js": "text/javascript",
         "server.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store"}


def create_app(trained: Trained, name: str = "", host: str = "localhost",
               invert: bool = False) -> flask.Flask:
    """Makes the web application of a run and compiles its first answer.

    name: of the run.
    host: a host name that requests may use, besides localhost and numeric addresses.
    invert: whether the page starts with dark and bright exchanged.
    """
    task = data.task_of(trained.config.data)
    if task.figures == "values":
        raise InputError("--mode=serve shows classes, and this network predicts "
                         "numbers: use --mode=predict")
    about = describe(trained, name, invert)
    layers: Sequence[str | None] = [
        layer["name"] for layer in about["layers"]] or [None]
    files = {name: (PAGE / name).read_text(encoding="utf-8") for name in FILES}
    compute = compile_answer(trained)
    jax.block_until_ready(
        compute(np.zeros(trained.info.image_shape, np.uint8), -1, about["layer"]))
    # One picture at a time: a large one takes hundreds of megabytes to decode, and XLA
    # uses all cores for one call.
    one_at_a_time = threading.Lock()
    app = flask.Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES

    @app.before_request
    def check_sender() -> None:
        check_name(flask.request, host)
        check_origin(flask.request)

    @app.after_request
    def protect(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> tuple[dict[str, str | None], int]:
        path = flask.request.path
        texts = {404: f"there is nothing at {path}; the page is /",
                 405: f"{path} does not take {flask.request.method}",
                 413: f"the upload has over {MAX_BYTES:,} bytes, the limit; make the "
                      "picture smaller"}
        code = error.code or 500
        return {"error": texts.get(code, error.description)}, code

    @app.errorhandler(InputError)
    def refuse(error: InputError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    @app.get("/", defaults={"file": "index.html"})
    @app.get("/<any('page.css', 'drawing.js', 'page.js', 'server.js'):file>")
    def page(file: str) -> flask.Response:  # from memory, not from the disk
        return flask.Response(files[file], mimetype=FILES[file])

    @app.get("/about")
    def tell() -> dict[str, Any]:
        return about

    @app.post("/answer")
    def answer() -> dict[str, Any]:
        layer = one_of("layer", layers, about["layer"])
        index = one_of("class", range(-1, len(about["classes"])), -1)
        inverted = one_of("invert", (0, 1), 0)
        upload = io.BytesIO(flask.request.get_data(cache=False))
        with one_at_a_time:
            pixels = read_image(upload, trained.info.preprocessing, "the upload")
            pixels = 255 - pixels if inverted else pixels
            begin = time.perf_counter()
            computed = jax.device_get(compute(pixels, index, layer))
            took = 1000 * (time.perf_counter() - begin)
        return encode(pixels, computed, layer) | {
            "named": task.named_classes(computed.scores, NAMED),
            "milliseconds": round(took, 2)}

    return app


def one_of(field: str, allowed: Sequence[Value], default: Value) -> Value:
    """Reads a query parameter of the request. Raises InputError if it is not allowed.
    """
    values = {str(value): value for value in allowed}
    text = flask.request.args.get(field, str(default))
    if text not in values:
        known = (f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range)
                 else ", ".join(values) or "none")
        raise InputError(f"{field} = {text!r} is unknown; known: {known}")
    return values[text]


def check_name(request: flask.Request, host: str) -> None:
    """Refuses requests whose host name is not ours.

    Another site can make its name point to this machine, but not a numeric address.
    """
    header = request.headers.get("Host", "")
    try:
        name = urlsplit(f"//{header}").hostname or ""
        if name not in ("localhost", host.lower()):
            ipaddress.ip_address(name)
    except ValueError:
        flask.abort(403, f"the page is not served as {header!r}: use localhost, the "
                         "machine's numeric address or the name given with --host")


def check_origin(request: flask.Request) -> None:
    """Refuses requests that another page makes the browser send.

    Programs other than browsers send no origin.
    """
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers["Host"]
    site = request.headers.get("Sec-Fetch-Site", "none")
    if request.method == "POST" and (foreign or site not in ("none", "same-origin")):
        flask.abort(403, "this request comes from another page; use the page of this "
                         "server")


def describe(trained: Trained, name: str, invert: bool) -> dict[str, Any]:
    """Returns what the page needs to know about the run, see `describe_run`."""
    calls = trace_shapes(trained.network, trained.variables, trained.info.image_shape)
    layers = layers_in(calls)
    maps = [layer for layer in layers.values()
            if layer.is_map and layer.shape[:2] != (1, 1)]
    return describe_run(trained, calls[-1].output.shape[-1]) | {
        "run": name, "step": trained.step, "few": FEW, "best": BEST,
        "layers": [{"name": layer.name, "kind": kind_of(layer.module),
                    "shape": layer.shape} for layer in maps],
        "layer": default_layer(maps), "maps": MAPS, "invert": invert,
        "max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS}


def encode(pixels: np.ndarray, answer: Answer, layer: str | None) -> dict[str, Any]:
    """Converts an answer to JSON; pictures become PNG files in data: URLs.

    pixels: the input of the network. All maps of a layer share one scale from black to
    white.
    """
    reply = {"scores": [float(score) for score in answer.scores],
             "explained": int(answer.explained), "seen": png(pixels)}
    if answer.mask is not None:
        reply["mask"] = png(overlay(pixels, np.asarray(answer.mask)))
    if answer.maps is None or answer.cam is None:
        return reply
    low, high = float(answer.maps.min()), float(answer.maps.max())
    grey = np.rint((answer.maps - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return reply | {
        "layer": layer, "range": [low, high],
        "maps": [png(grey[..., i]) for i in range(min(MAPS, grey.shape[-1]))],
        "grad_cam": png(heat(pixels, np.asarray(answer.cam)))}


def heat(pixels: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Draws Grad-CAM over the grey picture, from dark to bright: uint8 [H, W, 3]."""
    grey = pixels.astype(np.float64).mean(-1, keepdims=True)
    high = float(cam.max())
    level = cam / high if high > 0 else cam
    colour = 255 * colormaps[HEAT](level)[..., :3]
    return np.rint((1 - HEAT_SHARE) * grey + HEAT_SHARE * colour).astype(np.uint8)


def png(image: np.ndarray) -> str:
    """Encodes uint8 [H, W], [H, W, 1] or [H, W, 3] as the data: URL of a PNG file."""
    image = image[..., 0] if image.shape[2:] == (1,) else image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return data_uri(file.getvalue())
