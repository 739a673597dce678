"use strict";
// The part that the page of --mode=serve and an exported page share: it sends a drawing
// or a file to the backend, and shows the answer.

const $ = (id) => document.getElementById(id);

let backend = null;    // see `start`
let about = null;      // the network, its classes and limits; see about.py
let source = null;     // the picture to predict: the drawing, a file, or nothing yet
let accepted = null;   // the last source that was answered
let asking = false, again = false;

const drawing = drawingOn($("canvas"), $("cursor"), {
  ink: () => (about.image_shape[2] === 1 ? "#fff" : $("ink").value),
  width: () => $("pen").value / 100,
  begun: hideError,
  changed: () => {
    source = drawing;
    update();
  },
  ended: update,  // the sentence waits for the end of a stroke
  cleared: empty,
});

// Starts the page with a backend:
//   load(): promise of `about`
//   answer(picture, { name, invert }): promise of { scores, named, seen, milliseconds }
//     and perhaps { mask }, see `encode` in app.py; or of { error }
//   started(), shown(answer), cleared(): optional, for what only one page has
async function start(chosen) {
  backend = chosen;
  about = await backend.load();
  const [height, width, channels] = about.image_shape;
  drawing.resize(height, width);
  $("ink-tool").hidden = channels === 1;
  $("invert").checked = about.invert;
  $("title").textContent = `${about.network} on ${about.dataset}`;
  document.title = $("title").textContent;
  backend.started?.();
  empty();
  $("pad").inert = false;
  busy(false);  // the page is ready
}

function pictureKind() {
  const [height, width, channels] = about.image_shape;
  return `pictures of ${width} × ${height} pixels, ${channels === 1 ? "grey" : "colour"}`;
}

// Asking the backend: one request at a time; later strokes wait for its answer.

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

async function ask(requested) {
  const drawn = requested === drawing;
  const picture = drawn ? await drawing.file() : requested;
  const begin = performance.now();
  const answer = await backend.answer(picture, {
    name: drawn ? "the drawing" : requested.name,
    invert: !drawn && $("invert").checked,
  });
  if (source !== requested) return;  // cleared or replaced in the meantime
  if (answer.error) {
    source = drawn ? requested : accepted;
    $("took").textContent = "";
    showError(answer.error);
    return;
  }
  accepted = requested;
  const took = Math.round(performance.now() - begin);
  $("took").textContent = (drawn ? "" : `${requested.name}: `) +
    `answered in ${took} ms; the network took ${answer.milliseconds.toFixed(1)} ms`;
  show(answer);
  if (drawn) return;
  await $("seen").decode();
  drawing.paint($("seen"));  // so that it can be drawn on
}

function askAgain() {
  hideError();
  update();
}

function showError(text) {
  $("problem").textContent = `${text}.`;
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });  // the file button is far below
}

function hideError() {
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
  backend.shown?.(answer);
}

// The predicted classes; if an image has one class, the best two.
function sentence({ scores, named }) {
  const shown = about.exclusive
    ? named.slice(0, 2).filter((i, n) => n === 0 || scores[i] >= 0.005) : named;
  return shown.map((i) => `${about.classes[i]}: ${percent(scores[i])}`).join(", ")
    .replaceAll(" %", "\u00a0%") || "No class is above 50 %.";
}

function order(scores) {
  return Array.from(scores, (_, i) => i)
    .sort((a, b) => scores[b] - scores[a] || a - b);
}

function percent(fraction) {
  return `${(100 * fraction).toFixed(1)} %`;
}

// Up to `about.few` classes are all shown, in their order. Of more classes, only the
// `about.best` best and all predicted ones are shown, and none before the first answer.
function showScores(scores, named) {
  const all = about.classes.map((_, i) => i), best = scores ? order(scores) : all;
  const count = scores ? Math.max(about.best, named.length) : 0;
  const shown = all.length > about.few ? best.slice(0, count) : all;
  const list = $("classes");
  while (list.children.length > shown.length) list.lastChild.remove();
  while (list.children.length < shown.length) list.append(row());
  list.classList.toggle("wide", about.classes.some((name) => name.length > 3));
  shown.forEach((i, line) => {
    const [name, bar, figure] = list.children[line].children;
    name.replaceChildren(about.classes[i]);
    if (about.unit === "pixel") name.prepend(swatch(about.colours[i]));
    bar.firstChild.style.width = scores ? percent(scores[i]).replace(" ", "") : "0";
    figure.textContent = scores ? percent(scores[i]) : "";
    list.children[line].classList.toggle("best", Boolean(scores) &&
      (about.exclusive ? i === best[0] : named.includes(i)));
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

function empty() {
  hideError();
  source = accepted = null;
  drawing.clear();
  showScores(null);
  $("spoken").textContent = "Nothing drawn yet.";
  $("took").textContent = "";
  $("pictures").hidden = true;
  backend.cleared?.();
}

$("clear").addEventListener("click", empty);
$("invert").addEventListener("change", askAgain);

// Files: chosen, dropped or pasted

function load(file) {
  if (!file) return;
  if (!about) return showError("the page is not ready yet: try again in a moment");
  hideError();
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
    showError("what was dropped is not a file: save the picture, then drop the file");
  }
});
