"use strict";
// A canvas for drawing by mouse, finger or keyboard: bright ink on black.

const SIDE = 336;   // approximate pixels of the longer side
const GRID = 28;    // steps of the keyboard's pen across the shorter side
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
  ArrowDown: [0, 1] };

// cursor: an element over the canvas that shows the keyboard's pen.
// ink(), width(): the colour and width of a line; the width is a fraction of the shorter
// side.
// begun(), changed(), ended(), cleared(): callbacks; changed() runs after each segment.
function drawingOn(canvas, cursor, { ink, width, begun, changed, ended,
  cleared }) {
  const context = canvas.getContext("2d", { alpha: false });
  let position = null; // of the pen, in pixels of the canvas
  let pressed = false; // the mouse button or finger is down

  const shorter = () => Math.min(canvas.width, canvas.height);

  function lineTo(to) {
    const from = position || to;
    position = to;
    context.strokeStyle = ink();
    context.lineWidth = width() * shorter();
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    changed();
  }

  function positionOf(event) {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width * canvas.width,
      y: (event.clientY - box.top) / box.height * canvas.height };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    hideCursor();
    pressed = true;
    position = null;
    begun();
    lineTo(positionOf(event));
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!pressed || !event.isPrimary) return;
    for (const each of [...event.getCoalescedEvents(), event]) lineTo(positionOf(each));
  });

  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      if (!pressed || !event.isPrimary) return;
      pressed = false;
      ended();
    });
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const down = cursor.classList.contains("down");
    position = position || { x: canvas.width / 2, y: canvas.height / 2 };
    if (event.key === "Delete" || event.key === "Backspace") {
      cleared();
    } else if (event.key === " ") {
      cursor.classList.toggle("down");
      if (!down) begun();
      if (!down) lineTo(position);
    } else if (event.key in STEPS) {
      const [x, y] = STEPS[event.key], step = shorter() / GRID;
      const to = { x: Math.min(canvas.width, Math.max(0, position.x + x * step)),
        y: Math.min(canvas.height, Math.max(0, position.y + y * step)) };
      if (down) lineTo(to); else position = to;
    } else {
      return;
    }
    event.preventDefault();
    cursor.hidden = position === null;
    if (position === null) return;
    cursor.style.left = `${100 * position.x / canvas.width}%`;
    cursor.style.top = `${100 * position.y / canvas.height}%`;
  });

  function hideCursor() {
    cursor.hidden = true;
    cursor.classList.remove("down");
  }

  canvas.addEventListener("blur", hideCursor);

  return {
    isPressed: () => pressed,
    // Each pixel of the image covers several pixels of the canvas.
    resize(height, width) {
      const scale = Math.max(1, Math.round(SIDE / Math.max(height, width)));
      canvas.width = width * scale;
      canvas.height = height * scale;
    },
    clear() {
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      position = null;
      hideCursor();
    },
    paint(image) {
      context.imageSmoothingEnabled = false;
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
    },
    file: () => new Promise((done) => canvas.toBlob(done)),  // as PNG
  };
}
