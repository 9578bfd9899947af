"use strict";
// How a unit of each kind of layer is computed: pictures of its inputs, and the terms of its sum.

const LARGEST_GRID = 115;
const SIGNS_WIDTH = 54; // of × and = between three grids
const SMALL_GRID = 27;
const LARGEST_NUMBERED = 7; // a kernel's side up to which its numbers are written into its cells
const TERMS = 6;

/** Patch, kernel and products of each input map; `unit` is [channel, row, column]. */
function explainConv(inspector, index, [o, y, x]) {
  const layer = inspector.network.layers[index];
  const [rows, columns] = layer.kernel;
  const size = rows * columns;
  const perGroup = layer.input.channels / layer.groups;
  const firstInput = Math.floor(o / (layer.output.channels / layer.groups)) * perGroup;
  const inputs = inspector.values(index - 1);
  const { height, width } = layer.input;
  const terms = Array.from({ length: perGroup }, (_, i) => {
    const patch = Array.from({ length: size }, (_, k) => {
      const row = y * layer.stride[0] - layer.padding[0] + Math.floor(k / columns) * layer.dilation[0];
      const column = x * layer.stride[1] - layer.padding[1] + (k % columns) * layer.dilation[1];
      const inside = row >= 0 && row < height && column >= 0 && column < width;
      return inside ? inputs[((firstInput + i) * height + row) * width + column] : NaN;
    });
    const kernel = Array.from(layer.arrays.weight.subarray((o * perGroup + i) * size, (o * perGroup + i + 1) * size));
    const sum = patch.reduce((total, value, k) => total + (Number.isNaN(value) ? 0 : value * kernel[k]), 0);
    return { map: firstInput + i, patch, kernel, sum };
  });
  const ranges = {
    patch: magnitude(terms.flatMap((term) => term.patch)),
    kernel: magnitude(terms.flatMap((term) => term.kernel)),
    product: magnitude(terms.flatMap((term) => term.patch.map((value, k) => value * term.kernel[k]))),
  };
  const third = Math.max(60, (inspector.container.clientWidth - SIGNS_WIDTH) / 3);
  const cells = (side) => Math.max(1, Math.floor(side / Math.max(rows, columns)));
  const strongest = [...terms].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));
  const large = terms.find((term) => term.map === inspector.chosen.get(layer.name)) || strongest[0];
  const below = index === 0 ? "input" : inspector.network.layers[index - 1].name;
  const numbered = Math.max(rows, columns) <= LARGEST_NUMBERED;
  const figures = [
    element("h3", { textContent: perGroup > 1 ? `Patch × kernel, map ${large.map} of ${below}` : "Patch × kernel" }),
    element("div", { className: "product" },
      ...inspector.product(large, columns, Math.min(36, cells(Math.min(LARGEST_GRID, third))), ranges, numbered)),
  ];
  if (perGroup > 1) {
    const several = strongest.slice(0, TERMS).sort((a, b) => a.map - b.map);
    const list = element("div", { className: "terms" });
    for (const term of several) {
      const button = element("button", { type: "button", title: `Show the numbers of map ${term.map}` },
        element("span", { textContent: `map ${term.map}` }),
        ...inspector.product(term, columns, Math.min(10, cells(SMALL_GRID)), ranges),
        element("output", { textContent: shown(term.sum) }));
      button.setAttribute("aria-pressed", String(term === large));
      button.addEventListener("click", () => {
        inspector.chosen.set(layer.name, term.map);
        inspector.show(inspector.selection, inspector.state, inspector.colours);
      });
      list.append(button);
    }
    const rest = strongest.slice(TERMS);
    if (rest.length) {
      const sum = rest.reduce((total, term) => total + term.sum, 0);
      list.append(element("p", {}, `${rest.length} other maps together`, element("output", { textContent: shown(sum) })));
    }
    figures.push(list);
  }
  const total = terms.reduce((sum, term) => sum + term.sum, 0);
  return { figures, lines: weightedLines("Σ patch × kernel", total, layer.arrays.bias, o) };
}

/** The lines of a sum, with the bias where there is one. */
function weightedLines(text, total, bias, unit) {
  return bias ? [[text, total], ["+ bias", bias[unit]]] : [[text, total]];
}

/** All inputs, weights and products, and the largest products. */
function explainLinear(inspector, index, [o]) {
  const layer = inspector.network.layers[index];
  const inputs = Array.from(inspector.values(index - 1));
  const count = inputs.length;
  const weights = Array.from(layer.arrays.weight.subarray(o * count, (o + 1) * count));
  const products = inputs.map((value, i) => value * weights[i]);
  const below = inspector.network.layers[index - 1];
  const size = below?.kind === "flatten" ? below.input : layer.input;
  const nameOf = (i) => (size.height * size.width === 1 ? `[${i}]` : `[${position(size, i).join(", ")}]`);
  const figures = [element("h3", { textContent: `${count} inputs × weights` })];
  for (const [text, values] of [["inputs", inputs], ["weights", weights], ["products", products]]) {
    figures.push(element("figure", { className: "strip" },
      element("figcaption", { textContent: text }), inspector.tiles(values, size)));
  }
  const order = products.map((product, i) => i).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
  const list = element("table", { className: "steps terms" });
  for (const i of order.slice(0, TERMS)) {
    inspector.addRow(list, `${nameOf(i)}: ${shown(inputs[i])} × ${shown(weights[i])}`, products[i], false);
  }
  const rest = order.slice(TERMS);
  if (rest.length) inspector.addRow(list, `${rest.length} others together`, sumOf(rest.map((i) => products[i])), false);
  figures.push(list);
  return { figures, lines: weightedLines("Σ inputs × weights", sumOf(products), layer.arrays.bias, o) };
}

function sumOf(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** The window of a pooling unit. */
function explainPool(inspector, index, [c, y, x], text, reduce) {
  const layer = inspector.network.layers[index];
  const { height, width } = layer.input;
  const [y0, y1, rows] = layer.rows[y];
  const [x0, x1, columns] = layer.columns[x];
  const inputs = inspector.values(index - 1);
  const values = [];
  for (let row = y0; row < y1; row++) {
    for (let column = x0; column < x1; column++) values.push(inputs[(c * height + row) * width + column]);
  }
  const numbered = Math.max(y1 - y0, x1 - x0) <= LARGEST_NUMBERED;
  const cell = Math.max(2, Math.min(34, Math.floor(LARGEST_GRID / Math.max(y1 - y0, x1 - x0))));
  const grid = inspector.grid(values, x1 - x0, cell, magnitude(values), numbered);
  return {
    figures: [element("h3", { textContent: "Window" }), element("div", { className: "product" }, grid)],
    lines: [[text(rows * columns), reduce(values, rows * columns)]],
  };
}

function explainResponseNorm(inspector, index, [c, y, x]) {
  const layer = inspector.network.layers[index];
  const [first, end] = neighbours(layer, c);
  const own = inspector.value(index - 1, [c, y, x]);
  let squares = 0;
  for (let other = first; other < end; other++) squares += inspector.value(index - 1, [other, y, x]) ** 2;
  return {
    figures: [],
    lines: [
      [`input x`, own],
      [`Σ x² of maps ${first} to ${end - 1}`, squares],
      [`(${layer.k} + ${layer.alpha} / ${layer.size} × Σ)^${layer.beta}`,
        (layer.k + (layer.alpha * squares) / layer.size) ** layer.beta],
    ],
  };
}

const EXPLAIN = {
  conv: explainConv,
  linear: explainLinear,
  max_pool: (inspector, index, unit) =>
    explainPool(inspector, index, unit, () => "largest of the window", (values) => Math.max(...values)),
  avg_pool: (inspector, index, unit) =>
    explainPool(inspector, index, unit, (count) => `Σ / ${count}`, (values, count) => sumOf(values) / count),
  response_norm: explainResponseNorm,
};
