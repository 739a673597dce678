// Draw a digit, and see the feature maps and probabilities of the LeNet-5 that the page
// has just trained. The weights are in #digit-data, see docs/book/explorers.py.
"use strict";
window.addEventListener("load", () => {
  const root = document.getElementById("digit-explorer");
  const data = JSON.parse(document.getElementById("digit-data").textContent);
  const SIDE = 32;  // of the paper, as of the scanned forms of the data set

  function element(name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, each] of Object.entries(attributes)) made.setAttribute(key, each);
    made.textContent = text;
    return made;
  }

  // Weights: little-endian int8 with one scale for each array.
  const weights = {};
  for (const [name, {shape, scale, bytes}] of Object.entries(data.arrays)) {
    const values = Int8Array.from(atob(bytes), c => c.charCodeAt(0) << 24 >> 24);
    weights[name] = {shape, values: Float32Array.from(values, v => v * scale)};
  }

  // Images are {h, w, c, values}, rows first and channels last.
  function image(h, w, c) { return {h, w, c, values: new Float32Array(h * w * c)}; }

  function convolve(x, name) {
    const {shape: [rows, columns, , outputs], values: k} = weights[`${name}/kernel`];
    const bias = weights[`${name}/bias`].values;
    const y = image(x.h - rows + 1, x.w - columns + 1, outputs);
    for (let i = 0; i < y.h; i += 1) for (let j = 0; j < y.w; j += 1) {
      const at = (i * y.w + j) * outputs;
      for (let o = 0; o < outputs; o += 1) y.values[at + o] = bias[o];
      for (let a = 0; a < rows; a += 1) for (let b = 0; b < columns; b += 1)
        for (let c = 0; c < x.c; c += 1) {
          const pixel = x.values[((i + a) * x.w + j + b) * x.c + c];
          const from = ((a * columns + b) * x.c + c) * outputs;
          for (let o = 0; o < outputs; o += 1) y.values[at + o] += pixel * k[from + o];
        }
    }
    return relu(y);
  }
  function row(values) { return {h: 1, w: values.length, c: 1, values}; }
  function relu(x) { return {...x, values: x.values.map(v => Math.max(v, 0))}; }
  function maxPool(x) {
    const y = image(x.h >> 1, x.w >> 1, x.c);
    for (let i = 0; i < y.h; i += 1) for (let j = 0; j < y.w; j += 1)
      for (let c = 0; c < x.c; c += 1)
        y.values[(i * y.w + j) * x.c + c] = Math.max(...[0, 1].flatMap(a => [0, 1].map(
          b => x.values[((2 * i + a) * x.w + 2 * j + b) * x.c + c])));
    return y;
  }
  function dense(x, name) {
    const {shape: [inputs, outputs], values: k} = weights[`${name}/kernel`];
    const y = Float32Array.from(weights[`${name}/bias`].values);
    for (let i = 0; i < inputs; i += 1) for (let o = 0; o < outputs; o += 1)
      y[o] += x[i] * k[i * outputs + o];
    return y;
  }
  function softmax(z) {
    const most = Math.max(...z), e = z.map(v => Math.exp(v - most));
    const sum = e.reduce((a, b) => a + b);
    return e.map(v => v / sum);
  }

  // The data set counts the ink in blocks of 4 x 4 pixels; 8 x 8 counts are enlarged to
  // 28 x 28 pixels, linearly, and centred in 32 x 32.
  function prepared(ink) {
    const counts = image(8, 8, 1), x = image(32, 32, 1);
    for (let i = 0; i < SIDE; i += 1) for (let j = 0; j < SIDE; j += 1)
      counts.values[8 * (i >> 2) + (j >> 2)] += ink[SIDE * i + j] / 16;
    const near = p => {
      const at = Math.min(Math.max((p + 0.5) * 8 / 28 - 0.5, 0), 7);
      const low = Math.min(Math.floor(at), 6);
      return [low, at - low];
    };
    for (let i = 0; i < 28; i += 1) for (let j = 0; j < 28; j += 1) {
      const [a, down] = near(i), [b, across] = near(j), v = counts.values;
      const mix = (row) => v[8 * row + b] * (1 - across) + v[8 * row + b + 1] * across;
      x.values[(i + 2) * 32 + j + 2] = mix(a) * (1 - down) + mix(a + 1) * down;
    }
    return x;
  }
  function run(ink) {
    const seen = prepared(ink), act1 = convolve(seen, "conv1"), pool1 = maxPool(act1);
    const act2 = convolve(pool1, "conv2"), pool2 = maxPool(act2);
    const fc1 = relu(row(dense(pool2.values, "fc1")));
    const fc2 = relu(row(dense(fc1.values, "fc2")));
    const logits = dense(fc2.values, "head");
    return {seen, act1, pool1, act2, pool2, fc1, fc2, logits,
            probabilities: softmax(logits)};
  }

  // The page: paper, buttons, maps, probabilities.
  const ink = new Float32Array(SIDE * SIDE);
  let cursor = null;
  const paper = element("canvas", {
    width: SIDE, height: SIDE, tabindex: 0, role: "img", "aria-label":
      "Paper. Draw with the mouse or a finger; or move with the arrow keys, and hold "
      + "Shift to draw."});
  paper.className = "explorer-paper";
  const buttons = element("div", {class: "explorer-buttons"});
  const clear = element("button", {type: "button"}, "Clear");
  clear.addEventListener("click", () => { ink.fill(0); show(); });
  buttons.append(clear);
  data.examples.forEach(({label, rows}) => {
    const button = element("button", {type: "button"}, `Example: ${label}`);
    button.addEventListener("click", () => {
      for (let i = 0; i < SIDE; i += 1) for (let j = 0; j < SIDE; j += 1)
        ink[SIDE * i + j] = rows[i >> 2][j >> 2] / 16;
      show();
    });
    buttons.append(button);
  });
  const answer = element("p", {"aria-live": "polite"});
  const table = element("table", {class: "book-bars", "aria-label": "Probabilities"});
  const bars = Array.from({length: 10}, (_, digit) => {
    const line = table.insertRow(), head = element("th", {scope: "row"}, digit);
    const bar = element("div", {class: "book-bar"});
    line.append(head, element("td"), element("td"));
    line.cells[1].append(bar);
    return {bar, value: line.cells[2]};
  });
  const maps = {};
  for (const [name, count, title] of [
      ["seen", 1, "what the network sees, 32 x 32"],
      ["act1", 6, "conv1: 6 maps of 28 x 28, after ReLU"],
      ["pool1", 6, "pool1: 6 maps of 14 x 14"],
      ["act2", 16, "conv2: 16 maps of 10 x 10, after ReLU"],
      ["pool2", 16, "pool2: 16 maps of 5 x 5"],
      ["fc1", 1, "fc1: 120 values, after ReLU"],
      ["fc2", 1, "fc2: 84 values, after ReLU"]]) {
    const box = element("div", {class: "explorer-maps", role: "img",
                                "aria-label": title});
    maps[name] = Array.from({length: count}, () => element("canvas"));
    box.append(...maps[name]);
    if (name.startsWith("fc")) box.classList.add("explorer-values");
    maps[name].box = box;
    maps[name].title = element("p", {class: "book-note"}, title);
  }
  const left = element("div"), right = element("div");
  left.append(paper, buttons, answer, table);
  for (const name in maps) right.append(maps[name].title, maps[name].box);
  const both = element("div", {class: "explorer-columns"});
  both.append(left, right);
  root.append(both);

  function paint(canvas, x, channel, most) {
    canvas.width = x.w;
    canvas.height = x.h;
    const context = canvas.getContext("2d"), pixels = context.createImageData(x.w, x.h);
    for (let i = 0; i < x.h * x.w; i += 1) {
      const grey = 255 * Math.min(1, x.values[i * x.c + channel] / (most || 1));
      pixels.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }
  function show() {
    paint(paper, {h: SIDE, w: SIDE, c: 1, values: ink}, 0, 1);
    if (cursor) {
      const context = paper.getContext("2d");
      context.fillStyle = "#ff9a52";
      context.fillRect(cursor[1], cursor[0], 1, 1);
    }
    const result = run(ink);
    for (const name in maps) {
      const most = Math.max(...result[name].values);
      maps[name].forEach((canvas, i) => paint(canvas, result[name], i, most));
    }
    const p = Array.from(result.probabilities), best = p.indexOf(Math.max(...p));
    const empty = ink.every(v => v === 0);
    answer.textContent = empty ? "The paper is empty."
      : `This is a ${best}, with a probability of ${(100 * p[best]).toFixed(1)} %.`;
    root.dataset.answer = empty ? "" : best;
    root.dataset.logits = result.logits.join(" ");
    p.forEach((value, digit) => {
      bars[digit].bar.style.width = `${100 * value}%`;
      bars[digit].value.textContent = `${(100 * value).toFixed(1)} %`;
    });
  }

  // A pen of about 3 x 3 pixels.
  function mark(row, column) {
    for (let i = -2; i <= 2; i += 1) for (let j = -2; j <= 2; j += 1) {
      const [y, x] = [row + i, column + j];
      if (i * i + j * j <= 4 && y >= 0 && x >= 0 && y < SIDE && x < SIDE)
        ink[SIDE * y + x] = 1;
    }
  }
  let last = null;
  function pixelAt(event) {
    const box = paper.getBoundingClientRect();
    return [event.clientY - box.top, event.clientX - box.left].map(
      v => Math.floor(SIDE * v / box.width));
  }
  paper.addEventListener("pointerdown", event => {
    paper.setPointerCapture(event.pointerId);
    [last, cursor] = [pixelAt(event), null];
    mark(...last);
    show();
  });
  paper.addEventListener("pointermove", event => {
    if (!last) return;
    const next = pixelAt(event);
    const steps = Math.max(1, ...next.map((v, i) => Math.abs(v - last[i])));
    for (let t = 0; t <= steps; t += 1)
      mark(...next.map((v, i) => Math.round(last[i] + (v - last[i]) * t / steps)));
    last = next;
    show();
  });
  for (const end of ["pointerup", "pointercancel"])
    paper.addEventListener(end, () => { last = null; });
  paper.addEventListener("keydown", event => {
    const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
                  ArrowRight: [0, 1]}[event.key];
    if (!move) return;
    event.preventDefault();
    cursor = (cursor || [8, 16]).map(
      (v, i) => Math.min(SIDE - 1, Math.max(0, v + move[i])));
    if (event.shiftKey) mark(...cursor);
    show();
  });
  show();
});
