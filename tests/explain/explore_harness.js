"use strict";
// Runs in the exported page, in one start of the browser: does what a user does and leaves what it saw as JSON.
// The page's frames come at once (see the fixture), so that nothing here waits and no clock matters.

const given = JSON.parse(document.getElementById("given").textContent);
const seen = {};

function encode(arrays) {
  const numbers = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    numbers.set(array, at);
    at += array.length;
  }
  const bytes = new Uint8Array(numbers.buffer);
  const parts = [];
  for (let i = 0; i < bytes.length; i += 32768) parts.push(String.fromCharCode(...bytes.subarray(i, i + 32768)));
  return btoa(parts.join(""));
}

function images({ pixels, count }) {
  const numbers = decodeFloats(pixels);
  const size = numbers.length / count;
  return Array.from({ length: count }, (_, i) => numbers.slice(i * size, (i + 1) * size));
}

function outputs(forward, batch) {
  const results = images(batch).map(forward);
  return { names: Object.keys(results[0]), values: encode(results.flatMap((result) => Object.values(result))) };
}

const rowOf = (name) => rows.find((row) => row.view.name === name);

function point(row, [c, y, x], type) {
  const [left, top] = row.corner(c);
  const box = row.canvas.getBoundingClientRect();
  const at = { clientX: box.left + left + (x + 0.5) * row.scale, clientY: box.top + top + (y + 0.5) * row.scale };
  row.canvas.dispatchEvent(new PointerEvent(type, { bubbles: true, ...at }));
}

function drawLine(points) {
  const box = pad.canvas.getBoundingClientRect();
  pad.canvas.setPointerCapture = () => {}; // there is no pointer that could be captured
  const send = (type, [x, y]) => pad.canvas.dispatchEvent(new PointerEvent(type, {
    bubbles: true, button: 0, clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  send("pointerdown", points[0]);
  points.slice(1).forEach((place) => send("pointermove", place));
  send("pointerup", points.at(-1));
}

function press(target, key, more = {}) {
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
}

const stepsShown = () => Array.from(document.querySelectorAll(".steps tr"), (row) => Array.from(row.cells, (cell) => cell.textContent));
const snapshot = () => ({ pixels: encode([state.pixels]), probabilities: state.probabilities,
  first: document.querySelector(".guess.first .name").textContent });

function use() {
  seen.digits = outputs(window.cnnlab.forward, given.digits);
  seen.others = given.others.map(({ description: own, weights, batch }) => {
    const other = new Network(own, decodeFloats(weights));
    return outputs((pixels) => other.forward(pixels), batch);
  });
  seen.resized = given.resizes.map(({ planes, channels, height, width, side, resize }) =>
    encode([evaluationView(decodeFloats(planes), channels, height, width, side, resize)]));
  try {
    window.cnnlab.forward(new Float32Array(7));
  } catch (error) {
    seen.wrongSize = error.message;
  }
  seen.start = snapshot();
  seen.title = document.querySelector("h1").textContent;
  seen.intruder = window.intruder ?? null;
  seen.classNames = Array.from(document.querySelectorAll("#classes .name"), (name) => name.textContent);

  for (const { name, unit } of given.units) {
    point(rowOf(name), unit, "pointermove");
    const box = inspector.boxes(selection.index, selection.unit)[0];
    (seen.units ??= []).push({ steps: stepsShown(), heading: document.querySelector("#computation h2").textContent,
      box: [box.y0, box.x0, box.y1, box.x1] });
  }

  find("clear").click();
  seen.cleared = snapshot();
  drawLine([[0.6, 0.1], [0.75, 0.5]]);
  seen.drawn = snapshot();
  find("eraser").click();
  find("width").value = 20;
  find("width").dispatchEvent(new Event("input"));
  drawLine([[0.6, 0.1], [0.75, 0.5], [0.6, 0.1]]);
  seen.erased = snapshot();
  press(document.body, "p");
  for (let i = 0; i < 8; i++) press(pad.canvas, "ArrowDown", { shiftKey: true });
  seen.byKey = snapshot();

  const conv = rowOf("features.0");
  selection = null;
  conv.unit = [1, 3, 4];
  press(conv.canvas, "ArrowRight");
  press(conv.canvas, "PageDown");
  press(conv.canvas, "Enter");
  seen.keyboard = { selection: { ...selection }, spoken: find("spoken").textContent };
  point(rowOf("features.3"), [0, 0, 0], "pointermove");
  seen.pinned = { ...selection };
  press(document.body, "Escape");
  point(rowOf("features.3"), [0, 0, 0], "pointermove");
  seen.released = { ...selection };

  conv.toggle.click();
  seen.hidden = getComputedStyle(conv.maps).display;
  conv.toggle.click();
  seen.shown = getComputedStyle(conv.maps).display;
  const { table } = colours;
  seen.signs = { negative: table[SHADES - 1], zero: table[SHADES], positive: table[SHADES + 1] };
}

try {
  use();
} catch (error) {
  seen.error = String(error.stack);
}
document.body.append(element("pre", { id: "seen", textContent: JSON.stringify(seen) }));
