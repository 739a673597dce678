// Sends a drawing or a file to the server of --mode=serve and shows the answer.

import { drawingOn } from "./drawing.js";

const FEW = 12;        // up to this number, all classes are shown in their order
const BEST = 10;       // of more classes, only the best ones are shown
const PATIENCE = 400;  // ms before the page says that it is waiting

const $ = (id) => document.getElementById(id);

let about = null;      // the answer of /about: network, classes, layers, limits
let source = null;     // what is sent: the drawing, a file, or nothing yet
let accepted = null;   // the last source that was answered
let asking = false, again = false;

const drawing = drawingOn($("canvas"), $("cursor"), {
  ink: () => (about.image_shape[2] === 1 ? "#fff" : $("ink").value),
  width: () => $("pen").value / 100,
  begun: forgive,
  changed: () => {
    source = drawing;
    update();
  },
  ended: update,  // the sentence waits for the end of a stroke
  cleared: empty,
});

async function start() {
  about = await (await fetch("about")).json();
  const [height, width, channels] = about.image_shape;
  drawing.resize(height, width);
  $("ink-tool").hidden = channels === 1;
  $("invert").checked = about.invert;
  $("title").textContent = `${about.network} on ${about.dataset}`;
  document.title = $("title").textContent;
  $("run").textContent =
    `${about.run}, step ${about.step}; pictures of ${width} × ${height} pixels, ` +
    (channels === 1 ? "grey" : "colour");
  fill($("layer"), about.layers.map((layer) =>
    [layer.name, `${layer.name} (${layer.kind})`]), about.layer);
  fill($("class"), [[-1, about.task === "segment" ? "the largest" : "the most probable"],
    ...about.classes.map((name, i) => [i, name])], -1);
  if (about.layer === null) {
    $("layer").disabled = $("class").disabled = true;  // no layer has maps
  }
  empty();
  $("pad").inert = false;
  busy(false);  // the page is ready
}

function fill(select, rows, chosen) {
  select.replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  select.value = String(chosen);
}

// Asking: one request at a time; later strokes wait for its answer.

async function update() {
  again = true;
  if (asking) return;
  busy(true);
  while (again) {
    again = false;
    if (source) await ask(source);
  }
  busy(false);
}

function busy(now) {
  asking = now;
  $("answer").setAttribute("aria-busy", now);
}

async function ask(asked) {
  const drawn = asked === drawing;
  const body = drawn ? await drawing.file() : asked;
  const query = new URLSearchParams({ class: $("class").value,
    invert: !drawn && $("invert").checked ? 1 : 0 });
  if (about.layer !== null) query.set("layer", $("layer").value);
  const waiting = setTimeout(() => {
    $("took").textContent = "computing (a layer is compiled at its first use) ...";
  }, PATIENCE);
  let answer, begin = performance.now();
  try {
    const response = await fetch(`answer?${query}`, { method: "POST", body });
    answer = response.headers.get("Content-Type") === "application/json"
      ? await response.json()
      : { error: `the server answered ${response.status} ${response.statusText}` };
  } catch {
    answer = { error: "the server does not answer: is it still running?" };
  }
  clearTimeout(waiting);
  if (source !== asked) return;  // cleared or replaced in the meantime
  if (answer.error) {
    source = drawn ? asked : accepted;
    $("took").textContent = "";
    complain(drawn ? answer.error : answer.error.replace("the upload", asked.name));
    return;
  }
  accepted = asked;
  const took = Math.round(performance.now() - begin);
  $("took").textContent = (drawn ? "" : `${asked.name}: `) +
    `answered in ${took} ms; the network took ${answer.milliseconds.toFixed(1)} ms`;
  show(answer);
  if (drawn) return;
  await $("seen").decode();
  drawing.paint($("seen"));  // so that it can be drawn on
}

function complain(text) {
  $("problem").textContent = `${text}.`;
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });  // the file button is far below
}

function forgive() {
  $("problem").hidden = true;
}

// Showing

function show(answer) {
  showScores(answer.scores, answer.named);
  if (!drawing.isPressed() && !again) $("spoken").textContent = sentence(answer);
  if (answer.mask) {
    $("mask").src = answer.mask;
    $("mask").alt = `The picture with its classes: ${sentence(answer)}`;
    $("mask-figure").hidden = false;
  }
  $("seen").src = answer.seen;
  $("pictures").hidden = false;
  $("cam-figure").hidden = $("features").hidden = !answer.maps;
  if (answer.maps) showInside(answer);
}

// The classes that the network names; where an image has one class, the best two.
function sentence({ scores, named }) {
  const shown = about.task === "multilabel" ? named : named.slice(0, 2)
    .filter((i, n) => n === 0 || scores[i] >= 0.005);
  return shown.map((i) => `${about.classes[i]}: ${percent(scores[i])}`).join(", ") ||
    "No class is above 50 %.";
}

function order(scores) {
  return scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showScores(scores, named) {
  const best = scores ? order(scores) : about.classes.map((_, i) => i);
  const shown = about.classes.length > FEW
    ? best.slice(0, BEST) : about.classes.map((_, i) => i);
  const list = $("classes");
  while (list.children.length < shown.length) list.append(row());
  list.classList.toggle("wide", about.classes.some((name) => name.length > 3));
  shown.forEach((i, line) => {
    const [name, bar, figure] = list.children[line].children;
    name.replaceChildren(about.classes[i]);
    if (about.task === "segment") name.prepend(swatch(about.colours[i]));
    bar.firstChild.style.width = scores ? percent(scores[i]).replace(" ", "") : "0";
    figure.textContent = scores ? percent(scores[i]) : "";
    list.children[line].classList.toggle("best", Boolean(scores) &&
      (about.task === "multilabel" ? named.includes(i) : i === best[0]));
  });
}

function row() {
  const item = document.createElement("li");
  const [name, bar, figure] = ["name", "bar", "percent"].map((kind) => {
    const span = document.createElement("span");
    span.className = kind;
    return span;
  });
  bar.append(document.createElement("span"));
  item.append(name, bar, figure);
  return item;
}

function swatch(colour) {
  const box = document.createElement("span");
  box.className = "swatch";
  box.style.background = colour;
  return box;
}

function showInside(answer) {
  const [height, width, count] =
    about.layers.find((layer) => layer.name === answer.layer).shape;
  const name = about.classes[answer.explained];
  $("cam").src = answer.grad_cam;
  $("cam").alt = `Grad-CAM of ${answer.layer} for ${name} over the picture`;
  $("cam-caption").textContent =
    `Grad-CAM at ${answer.layer} for “${name}”: bright regions speak for the class`;
  const maps = $("maps"), shown = answer.maps.length;
  while (maps.children.length > shown) maps.lastChild.remove();
  while (maps.children.length < shown) {
    maps.append(Object.assign(document.createElement("img"), { alt: "" }));
  }
  answer.maps.forEach((map, i) => {
    maps.children[i].src = map;
    maps.children[i].title = `map ${i}`;
  });
  const which = shown < count ? `The first ${shown} of ${count} maps` : `${count} maps`;
  const [low, high] = answer.range.map((value) =>
    String(Number(value.toPrecision(3))).replace("-", "−"));
  $("range").textContent =
    `${which} of ${width} × ${height}; black is ${low}, white ${high}`;
  maps.setAttribute("aria-label", `Feature maps of ${answer.layer}`);
}

function empty() {
  forgive();
  source = accepted = null;
  drawing.clear();
  showScores(null);
  $("spoken").textContent = "Nothing drawn yet.";
  $("took").textContent = "";
  $("pictures").hidden = $("features").hidden = true;
}

$("clear").addEventListener("click", empty);

// Files: chosen, dropped or pasted

function load(file) {
  if (!about || !file) return;
  forgive();
  if (file.size > about.max_bytes) {
    complain(`${file.name} has ${file.size.toLocaleString("en")} bytes; the limit is ` +
      about.max_bytes.toLocaleString("en"));
    return;
  }
  source = file;
  update();
}

$("file").addEventListener("change", () => {
  load($("file").files[0]);
  $("file").value = "";  // so that the same file can be chosen again
});

document.addEventListener("paste", (event) => load(event.clipboardData.files[0]));

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});

document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});

document.addEventListener("drop", (event) => {
  event.preventDefault();  // or the browser would leave the page for the file
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) {
    load(event.dataTransfer.files[0]);
  } else {
    complain("what was dropped is not a file: save the picture, then drop the file");
  }
});

for (const id of ["layer", "class", "invert"]) {
  $(id).addEventListener("change", () => {
    forgive();
    update();
  });
}

start().catch(() => complain("the server does not answer: is it still running?"));
