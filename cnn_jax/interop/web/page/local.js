"use strict";
// The page of an exported folder: the network runs in this tab, by ONNX Runtime.

const OPACITY = 0.65;  // of the class's colour over the grey picture in a mask

let received = null;  // the content of the last embedded part that was read
let session = null, tensor = null;

const local = {
  async load() {
    const [runtime, wasm, model] = await readEmbedded(
      ["runtime.mjs", "runtime.wasm", "model.onnx"]);
    $("took").textContent = "starting the network ...";
    const module = URL.createObjectURL(new Blob([runtime], { type: "text/javascript" }));
    const { InferenceSession, Tensor, env } = await import(module);
    URL.revokeObjectURL(module);
    env.wasm.wasmBinary = wasm;
    env.wasm.numThreads = 1;  // more need headers that only a server can send
    session = await InferenceSession.create(model, { executionProviders: ["wasm"] });
    tensor = (data) => new Tensor("uint8", data, [1, ...ABOUT.image_shape]);
    await run(new Uint8Array(ABOUT.image_shape.reduce((a, b) => a * b)));  // warms up
    return ABOUT;
  },

  started() {
    $("run").textContent = `${about.summary}; ${pictureKind()}`;
  },

  async answer(file, { name, invert }) {
    let image;
    try {
      image = prepare(
        await decode(file, about.image_shape[2], about.max_pixels), about.preprocessing);
    } catch (error) {
      return { error: error instanceof RangeError ? `${name} has ${error.message}`
        : `${name} cannot be read as a picture by this browser` };
    }
    if (invert) image.data.forEach((value, i) => { image.data[i] = 255 - value; });
    const begin = performance.now();
    try {
      const output = await run(new Uint8Array(image.data.buffer));
      const milliseconds = performance.now() - begin;
      return { ...read(output, image), seen: png(image), milliseconds };
    } catch (error) {
      return { error: `the network failed on ${name}: ${error.message}` };
    }
  },
};

// Bytes [H, W, C] -> probabilities.
async function run(bytes) {
  const outputs = await session.run({ [session.inputNames[0]]: tensor(bytes) });
  return outputs[session.outputNames[0]].data;
}

// Returns the scores of all classes and the predicted classes; see cnn_jax.tasks.
function read(output, image) {
  if (about.unit === "pixel") return readMask(output, image);
  const scores = Array.from(output), best = order(scores);
  return { scores, named: about.exclusive
    ? best.slice(0, 2) : best.filter((i) => scores[i] > 0.5) };
}

// Scores are fractions of the pixels. The background, class 0, keeps the grey picture.
function readMask(output, image) {
  const count = about.classes.length, pixels = image.width * image.height;
  const fractions = new Array(count).fill(0), colours = about.colours.map((colour) =>
    [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  const data = new Uint8ClampedArray(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    const probabilities = output.subarray(i * count, (i + 1) * count);
    const index = probabilities.indexOf(Math.max(...probabilities));
    fractions[index] += 1 / pixels;
    const pixel = image.data.subarray(i * image.channels, (i + 1) * image.channels);
    const grey = pixel.reduce((sum, value) => sum + value, 0) / image.channels;
    data.set(colours[index].map((colour) =>
      (index ? (1 - OPACITY) * grey + OPACITY * colour : grey)), 3 * i);
  }
  return { scores: fractions, named: order(fractions).filter((i) => fractions[i] > 0),
    mask: png({ ...image, channels: 3, data }) };
}

// Encodes an image as the data: URL of a PNG file.
function png({ width, height, channels, data }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      pixels.data[4 * i + c] = data[i * channels + Math.min(c, channels - 1)];
    }
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

// Reading files. A page opened from a folder may not fetch files, but it may run scripts.
// So files are embedded in scripts: gzipped, in base64, and split into parts.

async function readEmbedded(names) {
  const total = names.reduce((sum, name) => sum + ABOUT.parts[name], 0);
  const files = [];
  let done = 0;
  for (const name of names) {
    const parts = [];
    for (let i = 0; i < ABOUT.parts[name]; i++) {
      $("took").textContent = `reading the network: ${Math.floor(100 * done++ / total)} %`;
      parts.push(await readPart(`embedded/${name}.${i}.js`));
    }
    const unzipped = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
    files.push(new Uint8Array(await new Response(unzipped).arrayBuffer()));
  }
  return files;
}

function readPart(path) {
  return new Promise((done, fail) => {
    const script = Object.assign(document.createElement("script"), { src: path });
    script.onload = () => {
      script.remove();
      const text = atob(received), bytes = new Uint8Array(text.length);
      for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
      received = null;
      done(bytes);
    };
    script.onerror = () => fail(new Error(`${path} is missing or cannot be read`));
    document.head.append(script);
  });
}

start(local).catch((error) => {
  $("took").textContent = "";
  showError(`the network cannot start in this browser: ${error.message}`);
});
