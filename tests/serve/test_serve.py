"""--mode=serve: its answers, its refusals, and the server itself."""

import base64
import io
import json
import re
import signal
import socket
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tests.support.forked import Forked
from tests.support.tiny_runs import (end, save_run, tiny, untrained,
                                     wait_until)

from cnn_jax import networks
from cnn_jax.data.images import Preprocessing, read_image
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError
from cnn_jax.inspection import predict
from cnn_jax.inspection.draw.overlays import overlay
from cnn_jax.inspection.explain.grad_cam import grad_cam
from cnn_jax.inspection.forward import compute_logits
from cnn_jax.layers import Layers
from cnn_jax.networks.named_layers import layers_of
from cnn_jax.networks.trace import features
from cnn_jax.serve import app as serve
from cnn_jax.serve import server
from cnn_jax.serve.answer import default_layer
from cnn_jax.workdir import trained as runs

pytestmark = pytest.mark.usefixtures("compiled_once")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, compiled_once):
    """Saves a run with random parameters, since training would take most of the time.
    """
    path = tmp_path_factory.mktemp("runs") / "short"
    run = untrained(tiny(), (8, 8, 1), tuple("0123456789"))
    return save_run(path, run.config, run.info, run.variables)


@pytest.fixture(scope="module")
def trained(workdir):
    return runs.load(workdir)


@pytest.fixture(scope="module")
def client(trained):
    return serve.create_app(trained, "short").test_client()


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def decoded(address: str) -> np.ndarray:
    """Decodes the pixels of a data: address."""
    start, _, content = address.partition(",")
    assert start == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


PICTURE = encoded(RANDOM.integers(0, 256, (30, 20, 3)).astype(np.uint8))


# Answers

def test_about_names_network_classes_layers_and_limits(client, trained):
    about = client.get("/about").json
    assert (about["network"], about["dataset"], about["run"]) == (
        "baseline", "digits", "short")
    assert about["classes"] == [str(i) for i in range(10)]
    assert (about["image_shape"], about["unit"]) == ([8, 8, 1], "image")
    assert (about["step"], about["max_bytes"]) == (7, 20 * 2**20)
    shapes = {layer["name"]: layer["shape"] for layer in about["layers"]}
    assert about["layer"] in shapes and "head" not in shapes
    variables = trained.variables
    outputs = features(trained.network, variables, jnp.zeros((1, 8, 8, 1)), True)
    assert all(outputs[name].shape[1:] == tuple(shape)
               for name, shape in shapes.items())


@pytest.mark.parametrize("kind,invert", [("PNG", 0), ("PNG", 1), ("JPEG", 0),
                                         ("GIF", 1)])
def test_probabilities_are_those_of_predict(client, workdir, tmp_path, kind, invert):
    """They agree for a grey network and a colour picture of another size and shape."""
    picture = encoded(RANDOM.integers(0, 256, (31, 17, 3)).astype(np.uint8), kind)
    file = tmp_path / "picture"
    file.write_bytes(picture)
    answer = client.post(f"/answer?invert={invert}", data=picture).json
    theirs, = predict.predict(workdir, [file], top=10, invert=bool(invert))
    ours = answer["scores"]
    assert abs(sum(ours) - 1) < 1e-6
    np.testing.assert_allclose([ours[int(name)] for name in theirs.classes],
                               theirs.scores, rtol=1e-5, atol=1e-7)
    assert answer["explained"] == int(theirs.classes[0]) == int(np.argmax(ours))
    seen = read_image(io.BytesIO(picture), Preprocessing((8, 8), 1))
    np.testing.assert_array_equal(decoded(answer["seen"]),
                                  (255 - seen if invert else seen)[..., 0])


def test_the_first_layer_is_that_of_grad_cam():
    """For a block with branches it is the whole block, after its activations."""
    network = networks.create("squeezenet1_1", 1000, Layers(conv="lax", pool="lax"))
    variables = jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    layers = layers_of(network, variables, (64, 64, 3))
    maps = [layer for layer in layers.values() if layer.is_map]
    assert default_layer(maps) == "fire9"
    assert default_layer([]) is None


@pytest.mark.parametrize("chosen", [-1, 3])
def test_maps_and_grad_cam_are_those_of_the_layer(client, trained, chosen):
    """They agree for each layer that the page offers."""
    pixels = read_image(io.BytesIO(PICTURE), Preprocessing((8, 8), 1))
    images = scale(pixels[None], trained.info.scaling)
    network = trained.network
    variables = trained.variables
    outputs = features(network, variables, images, inner=True)
    for layer in client.get("/about").json["layers"][::3]:
        name = layer["name"]
        answer = client.post(f"/answer?layer={name}&class={chosen}", data=PICTURE).json
        target = int(outputs["head"][0].argmax()) if chosen < 0 else chosen
        assert (answer["layer"], answer["explained"]) == (name, target)
        expected = np.asarray(outputs[name][0])
        low, high = answer["range"]
        np.testing.assert_allclose([low, high], [expected.min(), expected.max()],
                                   rtol=1e-5, atol=1e-6)
        assert len(answer["maps"]) == expected.shape[-1]
        shown = np.stack([decoded(one) for one in answer["maps"]], -1)
        np.testing.assert_allclose(low + shown / 255 * (high - low), expected,
                                   atol=(high - low) / 255)
        cam = grad_cam(network, variables, images, jnp.array([target]), layer=name)
        difference = decoded(answer["grad_cam"]).astype(int) - serve.heat(
            pixels, np.asarray(cam[0]))
        assert np.abs(difference).max() <= 2  # rounding may move a colour


def test_only_the_first_maps_of_a_wide_layer_are_sent(client, monkeypatch):
    monkeypatch.setattr(serve, "MAPS", 2)
    answer = client.post("/answer", data=PICTURE).json
    assert len(answer["maps"]) == 2


def test_concurrent_requests_get_their_own_answers(client):
    pictures = [encoded(RANDOM.integers(0, 256, (9, 9)).astype(np.uint8))
                for _ in range(12)]
    ask = client.application.test_client

    def answer(picture):
        return ask().post("/answer", data=picture).json["scores"]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(answer, pictures)) == [answer(one) for one in pictures]


def test_masks_take_the_place_of_probabilities():
    config = tiny({"model.name": "shapes_fcn", "data.name": "shapes_segmentation"})
    with config.unlocked():
        config.model.fields.widths = (4, 8)
    names = ("background", "circle", "rectangle", "triangle", "diamond", "line")
    run = untrained(config, (32, 32, 3), names)
    client = serve.create_app(run).test_client()
    about, answer = client.get("/about").json, client.post("/answer", data=PICTURE).json
    assert about["unit"] == "pixel" and about["layer"] != "head"
    assert len(about["colours"]) == 6 and about["colours"][0] == "#000000"
    pixels = read_image(io.BytesIO(PICTURE), Preprocessing((32, 32), 3))
    images = scale(pixels[None], run.info.scaling)
    mask = np.asarray(
        compute_logits(run.network, run.variables, images)[0].argmax(-1))
    shares = np.bincount(mask.ravel(), minlength=6) / mask.size
    np.testing.assert_allclose(answer["scores"], shares, atol=1e-6)
    np.testing.assert_array_equal(decoded(answer["mask"]), overlay(pixels, mask))
    assert answer["explained"] == 1 + shares[1:].argmax()
    assert decoded(answer["grad_cam"]).shape == (32, 32, 3)


def test_probable_classes_are_named_in_multilabel_runs():
    config = tiny({"data.name": "shapes_multilabel", "model.name": "lenet5"})
    run = untrained(config, (16, 16, 1), tuple("abcde"))
    client = serve.create_app(run).test_client()
    about, answer = client.get("/about").json, client.post("/answer", data=PICTURE).json
    assert not about["exclusive"] and "mask" not in answer
    pixels = read_image(io.BytesIO(PICTURE), Preprocessing((16, 16), 1))
    logits = compute_logits(run.network, run.variables,
                            scale(pixels[None], run.info.scaling))[0]
    np.testing.assert_allclose(answer["scores"], 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert sorted(answer["named"]) == np.flatnonzero(logits > 0).tolist()
    assert answer["explained"] == np.argmax(logits)


def test_a_network_without_maps_has_only_probabilities():
    config = tiny({"model.name": "ai_edu_mnist_dnn"})
    client = serve.create_app(untrained(
        config, (28, 28, 1), tuple("0123456789"))).test_client()
    about, answer = client.get("/about").json, client.post("/answer", data=PICTURE).json
    assert (about["layers"], about["layer"]) == ([], None)
    assert answer.keys() == {"scores", "named", "explained", "seen", "milliseconds"}
    assert client.post("/answer?layer=conv1", data=PICTURE).status_code == 400


# Refusals

def refused(response, code: int, *words: str) -> None:
    """Asserts that the response is one line of JSON with these words."""
    assert response.status_code == code, response.text
    assert response.content_type == "application/json"
    assert response.text.count("\n") == 1 and response.text.endswith("\n")
    assert response.json.keys() == {"error"}
    for word in words:
        assert word in response.json["error"], response.text


def bomb(side: int) -> bytes:
    """Makes a PNG file of side x side black grey-scale pixels, in few bytes."""
    def chunk(kind, content):
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(
            4, "big")
    size = side.to_bytes(4, "big")
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + size + b"\x08\0\0\0\0")
            + chunk(b"IDAT", zlib.compress(bytes(side * 8))) + chunk(b"IEND", b""))


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n"
FLOAT = encoded(np.ones((9, 9), np.float32), "TIFF")


@pytest.mark.parametrize("content,words", [
    (b"", "cannot be read as a picture"), (b"hello there", "none of BMP"),
    (PICTURE[:-200], "cannot be read as a picture"), (PICTURE[:40], "cannot be read"),
    (SVG, "none of BMP"), (EPS, "none of BMP"), (FLOAT, "32-bit pixels"),
    (bomb(9_000), "64,000,000"), (bomb(60_000), "64,000,000")],
    ids="empty text truncated header svg eps float large huge".split())
def test_an_upload_that_is_not_a_picture_is_refused(client, content, words):
    assert len(content) < 1e6
    refused(client.post("/answer", data=content), 400, "the upload", words)


def test_an_upload_over_the_limit_is_refused(client):
    picture = PICTURE + bytes(serve.MAX_BYTES)  # a picture that would be readable
    refused(client.post("/answer", data=picture), 413, "20,971,520 bytes", "smaller")
    just = PICTURE + bytes(serve.MAX_BYTES - len(PICTURE))
    assert client.post("/answer", data=just).status_code == 200


@pytest.mark.parametrize("query,words", [
    ("layer=conv9", ["'conv9'", "group1_conv1"]), ("layer=", ["''"]),
    ("layer=head", ["'head'"]), ("class=10", ["'10'", "-1 to 9"]),
    ("class=1.5", ["'1.5'"]), ("class=a%0Ab", ["-1 to 9"]),
    ("invert=yes", ["'yes'", "0, 1"])])
def test_an_unknown_value_is_refused_with_the_known_ones(client, query, words):
    refused(client.post(f"/answer?{query}", data=PICTURE), 400, *words)


@pytest.mark.parametrize("path", [
    "/nothing", "/page/page.js", "/../serve.py", "/..%2fserve.py", "/%2e%2e/serve.py",
    "/page.js/../../serve.py", "/page", "/page//etc/passwd", "/serve.py", "/index.html",
    "/page.js%00"])
def test_there_are_no_other_files(client, path):
    refused(client.get(path), 404)


@pytest.mark.parametrize("method,path", [
    ("GET", "/answer"), ("POST", "/"), ("PUT", "/answer"), ("DELETE", "/page.js")])
def test_other_methods_are_refused(client, method, path):
    refused(client.open(path, method=method), 405, path, method)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000",
                                  "192.168.1.7:80", "[::1]:8000", "LOCALHOST"])
def test_our_own_names_are_served(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "[::1", "a b",
                                  "localhost.evil.example", "127.0.0.1.evil.example",
                                  ""])
@pytest.mark.parametrize("path", ["/", "/page.js", "/about", "/nothing"])
def test_a_foreign_name_is_refused(client, host, path):
    """This stops DNS rebinding, by which another site's name points to this machine."""
    refused(client.get(path, headers={"Host": host}), 403, "localhost")


def test_the_name_given_is_served(trained):
    client = serve.create_app(trained, host="Box.Home").test_client()
    assert client.get("/", headers={"Host": "box.home:80"}).status_code == 200
    refused(client.get("/", headers={"Host": "box.evil"}), 403)


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"},
    {"Origin": "http://localhost:9000"}, {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
def test_requests_from_other_pages_are_refused(client, headers):
    refused(client.post("/answer", data=PICTURE, headers=headers), 403, "another page")


def test_requests_from_our_page_and_from_programs_are_answered(client):
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own):
        assert client.post("/answer", data=PICTURE, headers=headers).status_code == 200


def test_every_answer_is_protected(client):
    answers = [client.get("/"), client.get("/page.js"), client.get("/nothing"),
               client.post("/answer", data=b""),
               client.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert set(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)) == {""}
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    parts = {file: client.get(f"/{file}") for file in serve.FILES if "html" not in file}
    for file, part in parts.items():
        assert part.mimetype == serve.FILES[file] and len(part.text) > 1000
    for text in (page, *(part.text for part in parts.values())):
        assert not re.search(r"https?:|//\w+\.|innerHTML|eval\(", text)


def test_an_internal_error_is_one_line_too(trained, monkeypatch):
    app = serve.create_app(trained)
    monkeypatch.setattr(serve, "encode", lambda *args: 1 / 0)
    refused(app.test_client().post("/answer", data=PICTURE), 500)


# The server

def test_a_port_in_use_and_a_bad_host_are_refused():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port} of 127.0.0.1"):
            server.listen("127.0.0.1", port)
    with pytest.raises(InputError, match="--host=no.such.invalid"):
        server.listen("no.such.invalid", 0)
    with pytest.raises(InputError, match="--host=192.0.2.1 --port=0"):
        server.listen("192.0.2.1", 0)  # an address for documentation only


def test_the_address_that_is_printed():
    with server.listen("localhost", 0) as listener:
        assert re.fullmatch(r"http://localhost:\d+",
                            server.address("localhost", listener))
        assert server.address("::1", listener).startswith("http://[::1]:")
        assert server.address("0.0.0.0", listener).startswith("http://localhost:")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_main_serves_until_a_signal(workdir, tmp_path, number):
    process = Forked(["--mode=serve", f"--workdir={workdir}", "--port=0"], tmp_path)
    written = process.paths[0]
    try:
        wait_until(lambda: written.exists() and "http" in written.read_text(), process)
        *lines, last = written.read_text().splitlines()
        address = re.search(r"http://127\.0\.0\.1:\d+", last)[0]
        assert "compiling ..." in lines and str(workdir) in last
        with urllib.request.urlopen(f"{address}/", timeout=60) as answer:
            assert b"<canvas" in answer.read() and "Server" not in answer.headers
        question = urllib.request.Request(f"{address}/answer", data=PICTURE)
        with urllib.request.urlopen(question, timeout=60) as answer:
            assert len(json.load(answer)["scores"]) == 10
    finally:
        process.send_signal(number)
    code, output, errors = end(process)
    assert (code, output.splitlines()[-1], errors) == (0, "stopped", "")
