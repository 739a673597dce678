"use strict";
// The page of --mode=serve: sends pictures to the server, and shows layers and maps.

const PATIENCE = 400;  // ms before the page says that it is waiting
const LOST = "the server does not answer: is it still running?";

const server = {
  load: async () => (await fetch("about")).json(),

  started() {
    $("run").textContent = `${about.run}, step ${about.step}; ${pictureKind()}`;
    fill($("layer"), about.layers.map((layer) =>
      [layer.name, `${layer.name} (${layer.kind})`]), about.layer);
    offerClasses(null);
    if (about.layer === null) {
      $("layer").disabled = $("class").disabled = true;  // no layer has maps
    }
  },

  async answer(body, { name, invert }) {
    if (body.size > about.max_bytes) {
      return { error: `${name} has ${body.size.toLocaleString("en")} bytes; the limit ` +
        `is ${about.max_bytes.toLocaleString("en")}` };
    }
    const query = new URLSearchParams({ class: $("class").value, invert: Number(invert) });
    if (about.layer !== null) query.set("layer", $("layer").value);
    const waiting = setTimeout(() => {
      $("took").textContent = "computing (a layer is compiled at its first use) ...";
    }, PATIENCE);
    try {
      const response = await fetch(`answer?${query}`, { method: "POST", body });
      if (response.headers.get("Content-Type") !== "application/json") {
        return { error: `the server answered ${response.status} ${response.statusText}` };
      }
      const answer = await response.json();
      if (answer.error) answer.error = answer.error.replace("the upload", name);
      return answer;
    } catch {
      return { error: LOST };
    } finally {
      clearTimeout(waiting);
    }
  },

  shown(answer) {
    if (about.classes.length > about.few) offerClasses(answer.scores);
    $("cam-figure").hidden = $("features").hidden = !answer.maps;
    if (answer.maps) showInside(answer);
  },

  cleared: () => { $("features").hidden = true; },
};

function fill(select, rows, chosen) {
  select.replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  select.value = String(chosen);
}

// Lists the classes to explain. If there are many, it begins with the best ones of the
// last answer; all follow, sorted by name.
function offerClasses(scores) {
  const select = $("class"), chosen = scores ? select.value : "-1";
  const options = (classes) => classes.map((i) => new Option(about.classes[i], i));
  const all = about.classes.map((_, i) => i);
  const first = about.unit === "pixel" ? "the largest" : "the most probable";
  select.replaceChildren(new Option(first, -1));
  if (all.length > about.few) {
    all.sort((a, b) => about.classes[a].localeCompare(about.classes[b]));
    if (scores) select.append(...options(order(scores).slice(0, about.best)),
      document.createElement("hr"));
  }
  select.append(...options(all));
  select.value = chosen;
}

function showInside(answer) {
  const [height, width, count] =
    about.layers.find((layer) => layer.name === answer.layer).shape;
  const name = about.classes[answer.explained];
  $("cam").src = answer.grad_cam;
  $("cam").alt = `Grad-CAM of ${answer.layer} for ${name} over the picture`;
  $("cam-caption").textContent =
    `Grad-CAM at ${answer.layer} for “${name}”: bright regions support the class`;
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

for (const id of ["layer", "class"]) $(id).addEventListener("change", askAgain);

start(server).catch(() => showError(LOST));
