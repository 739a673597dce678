"use strict";

const FEW = 12;          // so many classes are all shown, in their order
const BEST = 10;         // of more, the most probable ones
const SIDE = 336;        // about so many pixels has the longer side of the drawing
const PATIENCE = 400;    // ms before the page says that it waits

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d", { alpha: false });

let about = null;        // what the server says of the run
let source = null;       // what is asked about: the canvas, a file, or nothing yet
let accepted = null;     // the last one that was answered
let asking = false, again = false;
let drawing = false;     // the pen is down
let place = null;        // of the pen, in pixels of the canvas

async function start() {
  about = await (await fetch("about")).json();
  const [height, width, channels] = about.image_shape;
  const scale = Math.max(1, Math.round(SIDE / Math.max(height, width)));
  canvas.width = width * scale;
  canvas.height = height * scale;
  $("ink-tool").hidden = channels === 1;
  $("invert").checked = about.invert;
  $("title").textContent = `${about.network} on ${about.dataset}`;
  document.title = $("title").textContent;
  $("run").textContent =
    `${about.run}, step ${about.step}; pictures of ${width} × ${height} pixels, ` +
    (channels === 1 ? "grey" : "colour");
  fill($("layer"), about.layers.map((layer) =>
    [layer.name, `${layer.name} (${layer.kind})`]), about.layer);
  fill($("class"), [[-1, about.masks ? "the largest" : "the most probable"],
    ...about.classes.map((name, i) => [i, name])], -1);
  if (about.layer === null) {
    $("layer").disabled = $("class").disabled = true;  // no layer makes images
  }
  empty();
  busy(false);  // the page is ready
}

function fill(select, rows, chosen) {
  select.replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  select.value = String(chosen);
}

// Asking: one request at a time; what is drawn meanwhile is asked about afterwards.

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
  const drawn = asked === canvas;
  const body = drawn ? await new Promise((done) => canvas.toBlob(done)) : asked;
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
  if (source !== asked) return;  // cleared, or replaced by another, in the meantime
  if (answer.error) {
    source = drawn ? asked : accepted;
    $("took").textContent = "";
    complain(answer.error);
    return;
  }
  accepted = asked;
  const took = Math.round(performance.now() - begin);
  $("took").textContent = (drawn ? "" : `${asked.name}: `) +
    `answered in ${took} ms; the network took ${answer.milliseconds.toFixed(1)} ms`;
  show(answer);
  if (!drawn) await paint();
}

function complain(text) {
  $("problem").textContent = text[0].toUpperCase() + text.slice(1) + ".";
  $("problem").hidden = false;
}

function forgive() {
  $("problem").hidden = true;
}

// Showing

function show(answer) {
  const scores = answer.probabilities || answer.shares;
  showScores(scores);
  if (!drawing && !again) $("spoken").textContent = sentence(scores);
  if (answer.mask) {
    $("mask").src = answer.mask;
    $("mask").alt = `The picture with its classes: ${sentence(scores)}`;
    $("mask-figure").hidden = false;
  }
  $("seen").src = answer.seen;
  $("pictures").hidden = false;
  $("cam-figure").hidden = $("features").hidden = !answer.maps;
  if (answer.maps) showInside(answer);
}

function sentence(scores) {
  const best = order(scores)[0];
  const second = order(scores)[1];
  const words = [best, second].filter((i) => i !== undefined && scores[i] >= 0.005)
    .map((i) => `${about.classes[i]}: ${percent(scores[i])}`);
  return words.join(", ");
}

function order(scores) {
  return scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showScores(scores) {
  const best = scores ? order(scores) : about.classes.map((_, i) => i);
  const shown = about.classes.length > FEW
    ? best.slice(0, BEST) : about.classes.map((_, i) => i);
  const list = $("classes");
  while (list.children.length < shown.length) list.append(row());
  list.classList.toggle("wide", about.classes.some((name) => name.length > 3));
  shown.forEach((i, line) => {
    const [name, bar, figure] = list.children[line].children;
    name.replaceChildren(about.classes[i]);
    if (about.masks) name.prepend(swatch(about.colours[i]));
    bar.firstChild.style.width = scores ? percent(scores[i]).replace(" ", "") : "0";
    figure.textContent = scores ? percent(scores[i]) : "";
    list.children[line].classList.toggle("best", Boolean(scores) && i === best[0]);
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
    `Grad-CAM at ${answer.layer} for “${name}”: bright is what spoke for it`;
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
  source = accepted = place = null;
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  showScores(null);
  $("spoken").textContent = "Nothing drawn yet.";
  $("took").textContent = "";
  $("pictures").hidden = $("features").hidden = true;
}

// Drawing: white ink on black, as digits are stored. A picture that was chosen is
// painted here as the network saw it, and can be drawn on.

async function paint() {
  await $("seen").decode();
  context.imageSmoothingEnabled = false;
  context.drawImage($("seen"), 0, 0, canvas.width, canvas.height);
}

function lineTo(to) {
  const from = place || to;
  place = to;
  context.strokeStyle = about.image_shape[2] === 1 ? "#fff" : $("ink").value;
  context.lineWidth = $("pen").value / 100 * Math.min(canvas.width, canvas.height);
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.stroke();
  source = canvas;
  update();
}

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width * canvas.width,
    y: (event.clientY - box.top) / box.height * canvas.height };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!about || event.button !== 0 || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  $("cursor").hidden = true;
  forgive();
  drawing = true;
  place = null;
  lineTo(placeOf(event));
});

canvas.addEventListener("pointermove", (event) => {
  if (!drawing || !event.isPrimary) return;
  event.getCoalescedEvents().concat(event).forEach((one) => lineTo(placeOf(one)));
});

for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => {
    if (!drawing || !event.isPrimary) return;
    drawing = false;
    update();  // the sentence waits for the end of a stroke
  });
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
  ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  const down = $("cursor").classList.contains("down");
  if (!about || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Delete" || event.key === "Backspace") {
    $("clear").click();
  } else if (event.key === " ") {
    $("cursor").classList.toggle("down");
    place = place || { x: canvas.width / 2, y: canvas.height / 2 };
    if (!down) lineTo(place);
  } else if (event.key in STEPS) {
    const [x, y] = STEPS[event.key], step = Math.min(canvas.width, canvas.height) / 28;
    const from = place || { x: canvas.width / 2, y: canvas.height / 2 };
    const to = { x: Math.min(canvas.width, Math.max(0, from.x + x * step)),
      y: Math.min(canvas.height, Math.max(0, from.y + y * step)) };
    if (down) lineTo(to); else place = to;
  } else {
    return;
  }
  event.preventDefault();
  if (!place) return;
  $("cursor").hidden = false;
  $("cursor").style.left = `${100 * place.x / canvas.width}%`;
  $("cursor").style.top = `${100 * place.y / canvas.height}%`;
});

canvas.addEventListener("blur", () => {
  $("cursor").hidden = true;
  $("cursor").classList.remove("down");
});

$("clear").addEventListener("click", () => {
  forgive();
  empty();
});

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
