// The receptive-field explorer: which pixels a unit of a layer can depend on. The data
// are those that the page writes into #field-data, see docs/book/explorers.py.
"use strict";
window.addEventListener("load", () => {
  const root = document.getElementById("field-explorer");
  const data = JSON.parse(document.getElementById("field-data").textContent);
  const SIDE = 300, MARGIN = 60;  // of the image and around it, in units of the drawing

  function element(name, attributes = {}, text = "") {
    const svg = ["svg", "rect", "text", "line"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, each] of Object.entries(attributes)) made.setAttribute(key, each);
    made.textContent = text;
    return made;
  }
  function control(text, input, shown) {
    const label = element("label");
    label.append(element("span", {}, text), shown || element("span"), input);
    fieldset.append(label);
    input.addEventListener("input", draw);
    return input;
  }

  const fieldset = element("fieldset", {"aria-label": "Unit of a network"});
  const network = element("select", {name: "network"});
  for (const name in data) network.append(element("option", {value: name}, name));
  control("network", network);
  const outputs = {layer: element("output"), row: element("output"),
                   column: element("output")};
  const sliders = {};
  for (const name of ["layer", "row", "column"])
    sliders[name] = control(name, element("input", {type: "range", min: 0, name}),
                            outputs[name]);
  const sum = element("p", {"aria-live": "polite"});
  const drawing = element("svg", {
    viewBox: `0 0 ${SIDE + 2 * MARGIN} ${SIDE + 2 * MARGIN}`, role: "img"});
  drawing.style.maxWidth = "420px";
  root.append(fieldset, sum, drawing);

  network.addEventListener("input", () => start());

  function start() {
    sliders.layer.max = data[network.value].layers.length - 1;
    sliders.layer.value = Math.min(3, sliders.layer.max);
    centre();
    draw();
  }
  function centre() {
    const size = data[network.value].layers[sliders.layer.value][1];
    for (const name of ["row", "column"]) {
      sliders[name].max = size - 1;
      sliders[name].value = Math.floor(size / 2);
    }
  }
  sliders.layer.addEventListener("input", () => { centre(); draw(); });

  function draw() {
    const {image, layers} = data[network.value];
    const [name, size, field, stride, offset] = layers[sliders.layer.value];
    const row = Number(sliders.row.value), column = Number(sliders.column.value);
    outputs.layer.textContent = name;
    outputs.row.textContent = row;
    outputs.column.textContent = column;
    sliders.layer.setAttribute("aria-valuetext", name);
    const scale = SIDE / image, top = stride * row + offset;
    const left = stride * column + offset;
    sum.textContent = `${name}: ${size} x ${size} units, each sees ${field} x ${field} `
      + `pixels, ${stride} pixel${stride === 1 ? "" : "s"} apart. This one sees rows `
      + `${top} to ${top + field - 1} of ${image}.`;
    root.dataset.field = field;
    drawing.setAttribute("aria-label", sum.textContent);
    drawing.replaceChildren();
    const whole = SIDE + 2 * MARGIN;
    const box = (x, y, side, style) => {
      const low = [x, y].map(v => Math.max(-2, v)), high = [x, y].map(
        v => Math.min(whole + 2, v + side));
      drawing.append(element("rect", {
        x: low[0], y: low[1], width: Math.max(1, high[0] - low[0]),
        height: Math.max(1, high[1] - low[1]), style}));
    };
    box(MARGIN, MARGIN, SIDE, "fill:var(--book-faint);stroke:none");
    // The centres of all units, at most 30 along an axis.
    const step = Math.ceil(size / 30);
    for (let i = 0; i < size; i += step)
      for (let j = 0; j < size; j += step) {
        const at = [j, i].map(
          p => MARGIN + scale * (stride * p + offset + field / 2) - 1);
        box(at[0], at[1], 2, "fill:var(--book-text);opacity:.35");
      }
    box(MARGIN + scale * left, MARGIN + scale * top, scale * field,
        "fill:var(--book-series-1);fill-opacity:.35;stroke:var(--book-series-1);"
        + "stroke-width:2");
    drawing.append(element("text", {x: MARGIN + 4, y: MARGIN - 6},
                           `image, ${image} x ${image}`));
  }
  start();
});
