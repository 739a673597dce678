"""--mode=export --format=web writes a complete folder, with a package from npm."""

import json

import numpy as np
import pytest
from tests.support.file_server import Server
from tests.support.npm_package import made_package
from tests.support.tiny_runs import tiny, untrained

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.interop import export as exports
from cnn_jax.interop.web import folder as web
from cnn_jax.interop.web import npm
from cnn_jax.serve.about import PAGE, SHARED

pytestmark = pytest.mark.usefixtures("compiled_once")
RUNTIME = {"dist/ort.wasm.bundle.min.mjs": b"export const made = 1;",
           "dist/ort-wasm-simd-threaded.wasm": b"\0asm" + bytes(range(256)) * 40,
           "README.md": b"not needed"}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Serves a fake package as npm's registry; the cache folder is empty."""
    server = Server(tmp_path / "registry")
    monkeypatch.setattr(web, "RUNTIME", made_package(server.folder, RUNTIME))
    monkeypatch.setenv("npm_config_registry", f"{server.url}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def trained():
    made = untrained(tiny(), (12, 10, 3), ("cat", "</script>dog", "äpe"))
    history = [{"step": 0, "val_accuracy": 0.875}, {"step": 9, "val_accuracy": 0.5}]
    info = made.info.__replace__(shorter_side=16, interpolation="bicubic")
    return made._replace(info=info, history=history)


def about_of(folder) -> dict:
    text = (folder / "about.js").read_text(encoding="ascii")
    return json.loads(text.removeprefix("const ABOUT = ").removesuffix(";\n"))


def test_the_folder_has_every_file_of_the_page(registry, trained, tmp_path,
                                               monkeypatch):
    monkeypatch.setattr(web, "PART", 4096)
    folder = web.write_web(tmp_path / "web", trained)
    about = about_of(folder)
    assert about["classes"] == ["cat", "</script>dog", "äpe"]
    assert about["image_shape"] == [12, 10, 3] and about["unit"] == "image"
    assert about["preprocessing"] == {
        "size": [12, 10], "shorter_side": 16, "interpolation": "bicubic"}
    assert "87.5 %" in about["summary"] and "parameters" in about["summary"]
    files = {path.name for path in (folder / "embedded").iterdir()}
    assert files == {f"{name}.{i}.js" for name, parts in about["parts"].items()
                     for i in range(parts)}
    assert about["parts"]["model.onnx"] > 1
    page = (folder / "index.html").read_text()
    for name in [*SHARED, "about.js", "prepare.js", "local.js", "local.css"]:
        assert f'"{name}"' in page and (folder / name).is_file()
    assert (folder / "page.js").read_bytes() == (PAGE / "page.js").read_bytes()
    assert "Microsoft" in (folder / "onnxruntime-web.LICENSE.txt").read_text()
    for name, path in web.RUNTIME_FILES.items():
        assert web.extract(folder / "embedded" / name) == RUNTIME[path]


def test_the_model_in_the_folder_is_the_network(registry, trained, tmp_path,
                                                monkeypatch):
    (tmp_path / "web" / "embedded").mkdir(parents=True)
    (tmp_path / "web" / "embedded" / "model.onnx.9.js").write_text("of a larger one")
    monkeypatch.setattr(web, "PART", 4096)
    folder = web.write_web(tmp_path / "web", trained)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 12, 10, 3), np.uint8)
    np.testing.assert_allclose(web.load_web(folder, trained)(pixels),
                               exports.program_of(trained)(pixels), atol=1e-5)


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    page = (web.PAGE / "index.html").read_text()
    assert "connect-src" not in page and "default-src 'none'" in page
    for path in [*web.PAGE.glob("*.*s"), web.PAGE / "index.html"]:
        text = path.read_text()
        for word in ("http:", "https:", "innerHTML", "eval(", "fetch(", "<style"):
            assert word not in text, (path, word)


def test_the_package_is_downloaded_once(registry, tmp_path, capsys):
    for _ in range(2):
        path = npm.fetch_package(web.RUNTIME)
    assert path == tmp_path / "cache" / "npm" / "made-up-1.2.3.tgz"
    assert registry.asked == ["/made-up/-/made-up-1.2.3.tgz"]
    assert npm.read_package(path, ["README.md"]) == [b"not needed"]


def test_an_export_shows_the_download(registry, trained, tmp_path, capsys):
    examples = exports.noise((12, 10, 3))
    for downloaded in (True, False):
        exports.export(trained, ["web"], tmp_path / "export", examples, "noise",
                       Reporter())
        lines = capsys.readouterr().out.splitlines()
        assert any("made-up-1.2.3.tgz: 0.0 MB from" in line
                   for line in lines) == downloaded


def test_a_package_with_another_checksum_is_refused(registry):
    with pytest.raises(InputError, match="sha512"):
        npm.fetch_package(web.RUNTIME._replace(integrity=npm.RUNTIME.integrity))


def test_offline_the_error_names_url_and_folder(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        npm.fetch_package(npm.RUNTIME)
    message, name = str(caught.value), f"onnxruntime-web-{npm.RUNTIME.version}.tgz"
    assert f"http://127.0.0.1:9/onnxruntime-web/-/{name}" in message
    assert str(tmp_path / "cache" / "npm" / name) in message and "\n" not in message


def test_the_registry_is_npms_own_by_default(monkeypatch):
    monkeypatch.delenv("npm_config_registry", raising=False)
    assert npm.registry() == "https://registry.npmjs.org"
    assert len(npm.RUNTIME.checksum.digits) == 128  # sha512
