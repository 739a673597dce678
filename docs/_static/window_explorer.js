// The stride, padding and dilation explorer: one axis, one row for each output.
"use strict";
{
  const root = document.getElementById("window-explorer");
  const settings = [  // name, label, least, most, first value
    ["n", "input size n", 3, 14, 8], ["k", "kernel size k", 1, 5, 3],
    ["s", "stride s", 1, 4, 1], ["lo", "zeros before", 0, 4, 0],
    ["hi", "zeros after", 0, 4, 0], ["d", "dilation d", 1, 3, 1]];
  const value = {};

  function element(name, attributes = {}, text = "") {
    const svg = ["svg", "rect", "text", "line", "g", "path"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, each] of Object.entries(attributes)) made.setAttribute(key, each);
    made.textContent = text;
    return made;
  }

  const fieldset = element("fieldset", {"aria-label": "Settings of the convolution"});
  const inputs = {}, outputs = {};
  for (const [name, label, min, max, first] of settings) {
    const box = element("label");
    box.append(element("span", {}, label));
    outputs[name] = element("output", {}, first);
    inputs[name] = element("input", {type: "range", min, max, value: first, name});
    box.append(outputs[name], inputs[name]);
    fieldset.append(box);
    value[name] = first;
    inputs[name].addEventListener("input", () => {
      value[name] = Number(inputs[name].value);
      choice.value = "own";
      draw();
    });
  }

  const choice = element("select", {name: "padding"});
  for (const [key, label] of [["own", "as set here"], ["VALID", "VALID: none"],
                              ["SAME", "SAME: output ⌈n / s⌉"]])
    choice.append(element("option", {value: key}, label));
  const chosen = element("label");
  chosen.append(element("span", {}, "padding"), element("span"), choice);
  fieldset.append(chosen);
  choice.addEventListener("change", draw);

  const sum = element("p", {"aria-live": "polite"});
  const drawing = element("svg", {role: "img"});
  root.append(fieldset, sum, drawing);

  // The rule of cnn_jax.ops.geometry.resolve_padding.
  function same(n, reach, stride) {
    const total = Math.max((Math.ceil(n / stride) - 1) * stride + reach - n, 0);
    return [Math.floor(total / 2), total - Math.floor(total / 2)];
  }

  function draw() {
    const {n, k, s, d} = value, reach = (k - 1) * d + 1;
    if (choice.value === "VALID") [value.lo, value.hi] = [0, 0];
    if (choice.value === "SAME") [value.lo, value.hi] = same(n, reach, s);
    for (const name in inputs) {
      inputs[name].value = value[name];
      outputs[name].textContent = value[name];
    }
    const padded = n + value.lo + value.hi;
    const out = Math.max(0, Math.floor((padded - reach) / s) + 1);
    sum.textContent = `o = ⌊(${n} + ${value.lo + value.hi} - ${reach - 1} - 1) / ${s}⌋`
      + ` + 1 = ${out}` + (out ? "" : ": the kernel does not fit");
    root.dataset.outputs = out;

    const cell = 22, gap = 30, height = 26 * Math.max(out, 1) + 4;
    const width = padded * cell + gap + cell + 4;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.style.maxWidth = `${1.2 * width}px`;
    drawing.setAttribute("aria-label", `${out} windows over ${n} pixels and `
      + `${value.lo + value.hi} zeros`);
    drawing.replaceChildren();
    const fill = (x, y, kind, text, framed) => {
      const colours = {pixel: "var(--book-faint)", zero: "none",
                       output: "var(--book-series-1)"};
      drawing.append(element("rect", {
        x: x + 2, y: y + 2, width: cell - 4, height: cell - 4, rx: 2,
        fill: colours[kind], "stroke-width": framed ? 3 : 1,
        stroke: framed ? "var(--book-mark)" : "var(--book-faint)"}));
      const label = element("text", {x: x + cell / 2, y: y + cell / 2 + 4,
                                     "text-anchor": "middle"}, text);
      if (kind === "output") label.style.fill = "var(--color-background-primary)";
      drawing.append(label);
    };
    for (let row = 0; row < Math.max(out, 1); row += 1) {
      const read = new Set(out ? Array.from({length: k}, (_, a) => row * s + a * d)
        : []);
      for (let i = 0; i < padded; i += 1) {
        const pixel = i - value.lo, inside = pixel >= 0 && pixel < n;
        fill(2 + i * cell, 2 + 26 * row, inside ? "pixel" : "zero",
             inside ? pixel : "0", read.has(i));
      }
      if (!out) break;
      const x = 2 + padded * cell;
      drawing.append(element("text", {x: x + gap / 2, y: 26 * row + 17,
                                      "text-anchor": "middle"}, "→"));
      fill(x + gap, 2 + 26 * row, "output", row, false);
    }
  }
  draw();
}
