"use strict";
// The page: reads its description, builds the rows, and recomputes everything after each stroke.

const description = JSON.parse(document.getElementById("description").textContent);
const network = new Network(description, decodeFloats(document.getElementById("weights").textContent));
const find = (id) => document.getElementById(id);
const { channels: CHANNELS, side: SIDE } = description.input;
const HIDDEN_AT_FIRST = ["flatten", "identity"];
const LISTED_CLASSES = 12;
const NARROW = window.matchMedia("(max-width: 1000px)");

const state = { pixels: null, small: null, outputs: null, probabilities: null, milliseconds: 0 };
let selection = null; // {index, unit, pinned}; index -1 is the input
let colours = null;
let scheduled = false;

const views = [
  { name: "input", text: "pixels in [0, 1]", size: { channels: CHANNELS, height: SIDE, width: SIDE }, isInput: true },
  ...network.layers.map((layer) => ({
    name: layer.name, text: layer.text, size: layer.output, hidden: HIDDEN_AT_FIRST.includes(layer.kind),
  })),
];
if (description.classes.length <= 24 && description.classes.every((name) => name.length <= 3)) {
  views.at(-1).captions = description.classes;
}
const rows = views.map((view, number) => new Row(view, {
  hover: (unit) => selection?.pinned || select(number - 1, unit, false),
  move: (unit) => select(number - 1, unit, Boolean(selection?.pinned)),
  pin: (unit) => select(number - 1, unit, true),
}));
find("layers").append(...rows.map((row) => row.element));
const inspector = new Inspector(find("computation"), network, description);
const pad = new Pad(find("pad"), description, schedule);

window.cnnlab = { description, forward: (pixels) => network.forward(pixels) };

/** Recompute before the next frame, once however many strokes there are. */
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    update();
  });
}

function update() {
  Object.assign(state, pad.read());
  const begin = performance.now();
  state.outputs = network.run(state.pixels);
  state.milliseconds = performance.now() - begin;
  state.probabilities = softmax(state.outputs.at(-1));
  draw();
}

function draw() {
  const byMap = find("scaling").value === "map";
  rows.forEach((row, number) => row.show(number ? state.outputs[number - 1] : state.pixels, colours, byMap));
  drawPreview();
  drawGuesses();
  drawFacts();
  drawSelection();
  find("pad-hint").hidden = !pad.empty;
}

function drawPreview() {
  const side = state.small ? description.drawing.side : SIDE;
  const planes = state.small || state.pixels.map((value) => 255 * value);
  const canvas = find("preview");
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(imageOf(planes, CHANNELS, side), 0, 0);
  const enlarged = side === SIDE ? "" : `, then resized to ${SIDE} × ${SIDE}`;
  find("preview-text").textContent = state.small
    ? `Downsampled to ${side} × ${side}${enlarged}`
    : `Resized to ${SIDE} × ${SIDE}, as cnnlab predict does`;
}

function drawGuesses() {
  const { classes } = description;
  const order = classes.map((_, i) => i).sort((a, b) => state.probabilities[b] - state.probabilities[a]);
  document.querySelectorAll(".guess").forEach((guess, rank) => {
    guess.hidden = rank >= classes.length;
    if (guess.hidden) return;
    guess.classList.toggle("long", classes[order[rank]].length > 5);
    guess.querySelector(".name").textContent = pad.empty ? "–" : classes[order[rank]];
    guess.querySelector(".share").textContent = pad.empty ? "" : percent(state.probabilities[order[rank]]);
  });
  const listed = classes.length <= LISTED_CLASSES ? classes.map((_, i) => i) : order.slice(0, LISTED_CLASSES / 2);
  find("classes").replaceChildren(...listed.map((i) => {
    const bar = element("span", { className: "bar" }, element("i"));
    bar.firstChild.style.width = `${100 * state.probabilities[i]}%`;
    const line = element("li", { className: i === order[0] ? "best" : "" },
      element("span", { className: "name", textContent: classes[i], title: classes[i] }), bar,
      element("span", { className: "share", textContent: percent(state.probabilities[i]) }));
    return line;
  }));
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function drawFacts() {
  find("facts").textContent = [
    description.network,
    `${description.parameters.toLocaleString("en")} parameters`,
    `${description.layers.length} layers`,
    `forward pass ${state.milliseconds.toFixed(1)} ms`,
  ].join(" · ");
}

function select(index, unit, pinned) {
  selection = { index, unit, pinned };
  const row = rows[index + 1];
  row.unit = unit;
  document.body.classList.add("inspecting");
  drawSelection();
  find("spoken").textContent =
    `${row.view.name} ${inspector.placeText(index, unit)}, value ${inspector.valueText(index, unit)}`;
}

/** Something to look at: the strongest unit of the last convolution. */
function selectStrongest() {
  const index = network.layers.findLastIndex((layer) => layer.kind === "conv");
  if (index < 0 || NARROW.matches) return;
  const values = state.outputs[index];
  select(index, position(network.layers[index].output, values.indexOf(Math.max(...values))), false);
}

function release() {
  if (!selection) return;
  if (selection.pinned && !NARROW.matches) selection.pinned = false;
  else {
    selection = null;
    document.body.classList.remove("inspecting");
  }
  drawSelection();
}

function drawSelection() {
  if (!selection) {
    rows.forEach((row) => row.mark(null, false));
    find("computation").replaceChildren(element("p", { className: "hint" },
      "Point at any unit, or move to one with Tab and the arrow keys: its receptive field is outlined in every layer " +
      "below, and its computation stands here."));
    return;
  }
  const boxes = inspector.boxes(selection.index, selection.unit);
  rows.forEach((row, number) => row.mark(boxes[number], number === selection.index + 1));
  inspector.show(selection, state, colours);
}

function layout() {
  const style = getComputedStyle(rows[0].element);
  const label = rows[0].label.getBoundingClientRect().width;
  const column = NARROW.matches ? 0 : label + parseFloat(style.columnGap || 0);
  const inner = find("layers").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  rows.forEach((row) => row.layout(Math.max(120, inner - column)));
  if (state.outputs) drawSelection();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  find("theme").textContent = theme === "dark" ? "Light" : "Dark";
  colours = new SignedColours(getComputedStyle(document.documentElement));
  const legend = find("legend").getContext("2d");
  const half = (find("legend").width - 1) / 2;
  for (let x = -half; x <= half; x++) {
    const [r, g, b] = colours.mix(x / half);
    legend.fillStyle = `rgb(${r} ${g} ${b})`;
    legend.fillRect(half + x, 0, 1, 10);
  }
  if (state.outputs) draw();
}

function setTool(tool) {
  pad.tool = tool;
  for (const name of ["pen", "eraser"]) find(name).setAttribute("aria-pressed", String(name === tool));
}

async function open(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    find("preview-text").textContent = `This browser cannot read ${file.name} as a picture.`;
    return;
  }
  pad.showPicture(picture, picture.width, picture.height);
}

function buildExamples() {
  for (const { label, pixels } of description.examples) {
    const planes = Float32Array.from(atob(pixels), (character) => character.charCodeAt(0));
    const canvas = canvasOf(imageOf(planes, CHANNELS, description.drawing.side));
    const button = element("button", { type: "button", title: `An image of class ${label}` }, canvas);
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => pad.showExample(planes));
    find("examples").append(button);
  }
  const start = find("examples").children[Math.min(3, description.examples.length - 1)];
  if (start) start.click();
}

function listen() {
  for (const tool of ["pen", "eraser"]) find(tool).addEventListener("click", () => setTool(tool));
  find("clear").addEventListener("click", () => pad.clear());
  find("invert").addEventListener("click", () => pad.invert());
  find("scaling").addEventListener("change", draw);
  find("theme").addEventListener("click", () =>
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  find("close").addEventListener("click", () => {
    if (selection) selection.pinned = false;
    release();
  });
  find("width").addEventListener("input", (event) => (pad.width = event.target.value / 100));
  find("colour").addEventListener("input", (event) => (pad.colour = event.target.value));
  find("fit").addEventListener("change", (event) => {
    pad.fits = event.target.checked;
    schedule();
  });
  find("file").addEventListener("change", (event) => {
    if (event.target.files.length) open(event.target.files[0]);
    event.target.value = "";
  });
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const action = {
      p: () => setTool("pen"), e: () => setTool("eraser"), c: () => pad.clear(), i: () => pad.invert(), Escape: release,
    }[event.key];
    if (action) action();
  });
  const pen = find("pen-position");
  pad.canvas.addEventListener("cursor", () => {
    pen.hidden = false;
    pen.style.left = `${(100 * pad.cursor[0]) / PAD_SIDE}%`;
    pen.style.top = `${(100 * pad.cursor[1]) / PAD_SIDE}%`;
  });
  pad.canvas.addEventListener("blur", () => (pen.hidden = true));
  let width = find("layers").clientWidth;
  new ResizeObserver(() => {
    if (find("layers").clientWidth === width) return; // only its height has changed, by layout itself
    width = find("layers").clientWidth;
    requestAnimationFrame(layout);
  }).observe(find("layers"));
}

find("title").textContent = description.title;
find("width").value = 100 * pad.width;
find("colour").hidden = CHANNELS === 1;
find("fit-choice").hidden = description.drawing.extent === null;
setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
listen();
layout();
buildExamples();
update();
selectStrongest();
