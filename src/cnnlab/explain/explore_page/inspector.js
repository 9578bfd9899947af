"use strict";
// The computation of one unit, with its numbers.

const STRIP_WIDTH = 300;
const STRIP_HEIGHT = 60;
const ELEMENTWISE = ["normalize", "identity", "flatten", ...Object.keys(ACTIVATIONS)];

/** A number that fits into a cell of so many pixels. */
function short(value, cell) {
  const size = Math.abs(value);
  const decimals = size >= 9.95 ? 0 : size >= 0.995 ? 1 : size < 0.0995 && cell >= 30 ? 3 : 2;
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? "0" : text.replace("-", "−").replace("0.", ".");
}

class Inspector {
  constructor(container, network, description) {
    this.container = container;
    this.network = network;
    this.description = description;
    this.chosen = new Map(); // layer name -> the input map whose numbers are shown large
  }

  /**
   * selection: {index, unit, pinned}, index -1 for the input. state: {pixels, outputs, probabilities}.
   */
  show(selection, state, colours) {
    Object.assign(this, { selection, state, colours });
    const { index, unit } = selection;
    const name = index < 0 ? "input" : this.network.layers[index].name;
    const parts = [
      element("h2", {}, name, element("span", { className: "unit", textContent: ` [${this.indices(index, unit)}]` })),
      element("p", { className: "value" }, element("b", { textContent: this.valueText(index, unit) }),
        element("span", { textContent: this.placeText(index, unit) })),
      this.inputView(index, unit),
      ...this.computation(index, unit),
      element("p", { className: "note", textContent: selection.pinned
        ? "Pinned: draw and watch this unit. Esc releases it."
        : "Click to pin this unit while you draw." }),
    ];
    this.container.replaceChildren(...parts);
  }

  size(index) {
    const { channels, side } = this.description.input;
    return index < 0 ? dimensions([channels, side, side]) : this.network.layers[index].output;
  }

  values(index) {
    return index < 0 ? this.state.pixels : this.state.outputs[index];
  }

  value(index, [c, y, x]) {
    const { height, width } = this.size(index);
    return this.values(index)[(c * height + y) * width + x];
  }

  isVector(index) {
    const { height, width } = this.size(index);
    return index >= 0 && height * width === 1;
  }

  indices(index, [c, y, x]) {
    return this.isVector(index) ? `${c}` : index < 0 ? `${y}, ${x}` : `${c}, ${y}, ${x}`;
  }

  placeText(index, [c, y, x]) {
    const isLast = index === this.network.layers.length - 1;
    if (this.isVector(index)) return isLast ? `class ${this.description.classes[c]}` : `unit ${c}`;
    return index < 0 ? `row ${y}, column ${x}` : `map ${c}, row ${y}, column ${x}`;
  }

  valueText(index, unit) {
    if (index >= 0) return shown(this.value(index, unit));
    return Array.from({ length: this.size(-1).channels }, (_, c) => shown(this.value(-1, [c, ...unit.slice(1)]))).join(" ");
  }

  /** The receptive field in the input, as picture and words. */
  inputView(index, unit) {
    const box = this.boxes(index, unit)[0];
    const { side, channels } = this.description.input;
    const picture = canvasOf(imageOf(this.state.pixels.map((value) => 255 * value), channels, side));
    const canvas = sized(element("canvas"), 84, 84);
    const context = canvas.getContext("2d");
    const scale = 84 / side;
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, 84, 84);
    outline(context, this.container, box.x0 * scale, box.y0 * scale, (box.x1 - box.x0) * scale, (box.y1 - box.y0) * scale);
    const [rows, columns] = [box.y1 - box.y0, box.x1 - box.x0];
    return element("figure", { className: "field" }, canvas, element("figcaption", {},
      element("span", { textContent: "Receptive field in the input" }),
      element("b", { textContent: `${rows} × ${columns} pixels` }),
      element("span", { textContent: `rows ${box.y0} to ${box.y1 - 1}, columns ${box.x0} to ${box.x1 - 1}` })));
  }

  /** The boxes that a unit is computed from: of the input, of each layer below, and of the unit itself. */
  boxes(index, [c, y, x]) {
    let box = { c0: c, c1: c + 1, y0: y, y1: y + 1, x0: x, x1: x + 1 };
    const boxes = [box];
    for (let at = index; at >= 0; at--) {
      box = this.network.source(this.network.layers[at], box);
      boxes.unshift(box);
    }
    return boxes;
  }

  /** The layer that mixes inputs (convolution, pooling ...), then what is done to its result, up to the nonlinearity. */
  computation(index, unit) {
    const { layers } = this.network;
    let root = index;
    let place = unit;
    while (root >= 0 && ELEMENTWISE.includes(layers[root].kind)) {
      if (layers[root].kind === "flatten") place = position(layers[root].input, place[0]);
      root--;
    }
    if (index < 0) return [];
    const { figures, lines } = root < 0
      ? { figures: [], lines: [["pixel", this.value(-1, place)]] }
      : EXPLAIN[layers[root].kind](this, root, place);
    const table = element("table", { className: "steps" });
    for (const [text, value] of lines) this.addRow(table, text, value, false);
    if (root >= 0) this.addRow(table, `= ${layers[root].name}`, this.value(root, place), index === root);
    let at = root;
    while (at < index || (at + 1 < layers.length && ELEMENTWISE.includes(layers[at + 1].kind) &&
        layers[at + 1].kind !== "flatten")) {
      at++;
      const before = this.value(at - 1, place);
      if (layers[at].kind === "flatten") place = unitOfFlat(layers[at].input, place);
      if (layers[at].kind === "identity" && at !== index) continue;
      this.addRow(table, this.stepText(layers[at], before, place[0]), this.value(at, place), at === index);
    }
    if (at === layers.length - 1) this.addRow(table, "softmax: probability", this.state.probabilities[place[0]], false);
    return [...figures, table];
  }

  addRow(table, text, value, isSelected) {
    const row = table.insertRow();
    row.className = isSelected ? "selected" : "";
    row.insertCell().textContent = text;
    row.insertCell().textContent = shown(value);
  }

  stepText(layer, before, channel) {
    const x = shown(before);
    const { mean, std, weight, bias } = layer.arrays;
    const texts = {
      normalize: () => `(${x} − ${shown(mean[channel])}) / ${shown(std[channel])}` +
        (weight ? ` × ${shown(weight[channel])} + ${shown(bias[channel])}` : ""),
      relu: () => `max(0, ${x})`,
      relu6: () => `min(6, max(0, ${x}))`,
      tanh: () => `tanh(${x})`,
      sigmoid: () => `1 / (1 + exp(−(${x})))`,
      identity: () => "unchanged",
      flatten: () => "unchanged",
    };
    return `${layer.name}: ${texts[layer.kind]()}`;
  }

  /** A canvas of values in lines of `columns`, `cell` pixels each; NaN is padding. */
  grid(values, columns, cell, range, numbered = false) {
    const rows = Math.ceil(values.length / columns);
    const canvas = sized(element("canvas", { className: "grid" }), cell * columns, cell * rows);
    const context = canvas.getContext("2d");
    context.font = `${Math.min(11, cell * 0.42)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const padding = getComputedStyle(this.container).getPropertyValue("--padding");
    values.forEach((value, i) => {
      const [x, y] = [(i % columns) * cell, Math.floor(i / columns) * cell];
      const [r, g, b] = this.colours.mix(value && range ? value / range : 0);
      context.fillStyle = Number.isNaN(value) ? padding : `rgb(${r} ${g} ${b})`;
      context.fillRect(x, y, cell, cell);
      if (!numbered) return;
      context.fillStyle = inkOn([r, g, b]);
      context.fillText(Number.isNaN(value) ? "·" : short(value, cell), x + cell / 2, y + cell / 2 + 0.5);
    });
    return canvas;
  }

  /** Values of several maps side by side; of a vector as cells. */
  tiles(values, size) {
    const isVector = size.height * size.width === 1;
    const gap = isVector ? 1 : 2;
    const { scale, columns } = tiling(size, STRIP_WIDTH, gap, { largest: 9, smallest: 1, down: STRIP_HEIGHT });
    const [tileWidth, tileHeight] = [size.width * scale + gap, size.height * scale + gap];
    const rows = Math.ceil(size.channels / columns);
    const canvas = sized(element("canvas", { className: "grid" }), columns * tileWidth - gap, rows * tileHeight - gap);
    const context = canvas.getContext("2d");
    const range = magnitude(values);
    values.forEach((value, i) => {
      const [c, y, x] = position(size, i);
      const [r, g, b] = this.colours.mix(value && range ? value / range : 0);
      context.fillStyle = `rgb(${r} ${g} ${b})`;
      const [left, top] = [(c % columns) * tileWidth, Math.floor(c / columns) * tileHeight];
      context.fillRect(left + x * scale, top + y * scale, scale, scale);
    });
    return canvas;
  }

  /** patch × kernel = products, as three grids. */
  product(term, columns, cell, ranges, numbered) {
    const products = term.patch.map((value, i) => value * term.kernel[i]);
    return [
      this.grid(term.patch, columns, cell, ranges.patch, numbered),
      element("span", { textContent: "×" }),
      this.grid(term.kernel, columns, cell, ranges.kernel, numbered),
      element("span", { textContent: "=" }),
      this.grid(products, columns, cell, ranges.product, numbered),
    ];
  }
}

function outline(context, styled, ...box) {
  const styles = getComputedStyle(styled);
  for (const [colour, width] of [["--outline-ground", 3.5], ["--outline", 1.5]]) {
    context.strokeStyle = styles.getPropertyValue(colour);
    context.lineWidth = width;
    context.strokeRect(...box);
  }
}

function unitOfFlat({ height, width }, [c, y, x]) {
  return [(c * height + y) * width + x, 0, 0];
}
