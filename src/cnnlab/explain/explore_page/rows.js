"use strict";
// The rows of the page: one for the input and one for each layer, with all its maps or units.

const MAP_GAP = 4;
const UNIT_GAP = 2;
const LARGEST_TILE = 64;
const SMALLEST_TILE = 30;
const ROW_HEIGHT = 70;
const INPUT_SIDE = 72;
const FRAME = 1;

/**
 * Pixels of a value's side and tiles in a line, so that all tiles fit into `across` pixels and, if their scale may
 * become that small, into `down`.
 */
function tiling({ channels, height, width }, across, gap, { largest, smallest, down }) {
  const columns = (scale) => Math.min(channels, Math.max(1, Math.floor((across + gap) / (scale * width + gap))));
  const tall = (scale) => Math.ceil(channels / columns(scale)) * (scale * height + gap) - gap;
  let scale = Math.max(1, largest);
  while (scale > Math.max(1, smallest) && tall(scale) > down) scale--;
  const lines = Math.ceil(channels / columns(scale));
  return { scale, columns: Math.ceil(channels / lines) };
}

/**
 * One row. view: {name, text, size: {channels, height, width}, isInput, hidden, captions}.
 * handlers: hover(unit) by pointer or focus, move(unit) by keys, pin(unit); unit = [channel, row, column].
 */
class Row {
  constructor(view, handlers) {
    this.view = view;
    this.handlers = handlers;
    this.isVector = view.size.height * view.size.width === 1 && !view.isInput;
    this.tiles = view.isInput ? 1 : view.size.channels;
    this.unit = null;
    this.build();
    this.listen();
    this.setOpen(!view.hidden);
  }

  build() {
    const { view } = this;
    const { channels, height, width } = view.size;
    const shape = this.isVector ? `${channels}` : `${channels} × ${height} × ${width}`;
    this.toggle = element("button", { type: "button", className: "toggle", textContent: view.name });
    this.range = element("span", { className: "range", title: "smallest and largest value" });
    this.label = element(
      "div", { className: "label" },
      this.toggle,
      element("span", { className: "text", textContent: view.text, title: view.text }),
      element("span", { className: "size" }, element("span", { textContent: shape }), this.range),
    );
    this.canvas = element("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute(
      "aria-label",
      `${view.name}, ${view.text}, ${shape}. Arrow keys move over the units, Page Up and Page Down over the maps, ` +
        "Enter pins one.",
    );
    this.overlay = element("canvas", { className: "overlay" });
    this.maps = element("div", { className: "maps" }, this.canvas, this.overlay);
    this.element = element("div", { className: "row" }, this.label, this.maps);
    this.strip = document.createElement("canvas"); // all tiles below one another, a value a pixel
    this.strip.width = view.size.width;
    this.strip.height = this.tiles * view.size.height;
  }

  listen() {
    this.toggle.addEventListener("click", () => this.setOpen(!this.open));
    this.canvas.addEventListener("pointermove", (event) => {
      const unit = this.unitAt(event);
      if (unit && event.pointerType !== "touch") this.handlers.hover(unit); // a finger that scrolls does not point
    });
    this.canvas.addEventListener("click", (event) => {
      const unit = this.unitAt(event);
      if (unit) this.handlers.pin(unit);
    });
    this.canvas.addEventListener("focus", () => {
      if (this.canvas.matches(":focus-visible")) this.handlers.hover(this.unit || this.middle());
    });
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    const { channels, height, width } = this.view.size;
    const [c, y, x] = this.unit || this.middle();
    const limit = (value, count) => Math.min(count - 1, Math.max(0, value));
    let next;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.handlers.pin([c, y, x]);
      return;
    }
    if (this.isVector) {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
      if (step) next = [limit(c + step, channels), 0, 0];
    } else {
      const step = { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
        PageUp: [-1, 0, 0], PageDown: [1, 0, 0] }[event.key];
      if (step) next = [limit(c + step[0], channels), limit(y + step[1], height), limit(x + step[2], width)];
    }
    if (next) {
      event.preventDefault();
      this.handlers.move(next);
    }
  }

  middle() {
    const { height, width } = this.view.size;
    return [0, Math.floor(height / 2), Math.floor(width / 2)];
  }

  setOpen(open) {
    this.open = open;
    this.element.classList.toggle("closed", !open);
    this.toggle.setAttribute("aria-expanded", String(open));
    this.toggle.title = open ? "Hide this layer" : "Show this layer";
    if (open && this.values) this.refresh();
  }

  /** Tile size and number of columns for a width in CSS pixels. */
  layout(available) {
    const { height, width } = this.view.size;
    this.gap = this.isVector ? UNIT_GAP : MAP_GAP;
    const limits = this.isVector
      ? { largest: 22, smallest: 5, down: 40 }
      : { largest: Math.floor(LARGEST_TILE / height), smallest: Math.ceil(SMALLEST_TILE / height), down: ROW_HEIGHT };
    const { scale, columns } = this.view.isInput
      ? { scale: Math.max(1, Math.round(INPUT_SIDE / height)), columns: 1 }
      : tiling(this.view.size, available, this.gap, limits);
    this.scale = scale;
    this.tileWidth = width * scale;
    this.tileHeight = height * scale;
    this.columns = columns;
    const rows = Math.ceil(this.tiles / columns);
    const ratio = window.devicePixelRatio || 1;
    const [across, down] = [
      columns * (this.tileWidth + this.gap) - this.gap + 2 * FRAME,
      rows * (this.tileHeight + this.gap) - this.gap + 2 * FRAME,
    ];
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.style.width = `${across}px`;
      canvas.style.height = `${down}px`;
      canvas.width = Math.round(across * ratio);
      canvas.height = Math.round(down * ratio);
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.refresh();
  }

  /** Left top corner of a tile in CSS pixels. */
  corner(tile) {
    return [
      FRAME + (tile % this.columns) * (this.tileWidth + this.gap),
      FRAME + Math.floor(tile / this.columns) * (this.tileHeight + this.gap),
    ];
  }

  unitAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - FRAME, event.clientY - box.top - FRAME];
    const column = Math.floor(x / (this.tileWidth + this.gap));
    const tile = Math.floor(y / (this.tileHeight + this.gap)) * this.columns + column;
    if (column < 0 || column >= this.columns || tile < 0 || tile >= this.tiles) return null;
    const [left, top] = this.corner(tile);
    const { height, width } = this.view.size;
    return [
      tile,
      Math.min(height - 1, Math.max(0, Math.floor((y - top) / this.scale))),
      Math.min(width - 1, Math.max(0, Math.floor((x - left) / this.scale))),
    ];
  }

  /** Show new values, Float32Array of C * H * W. */
  show(values, colours, byMap) {
    Object.assign(this, { values, colours, byMap });
    if (this.open) this.refresh();
  }

  refresh() {
    if (!this.values || !this.scale) return;
    const { height, width, channels } = this.view.size;
    const image = new ImageData(this.strip.width, this.strip.height);
    if (this.view.isInput) {
      image.data.set(imageOf(this.values.map((value) => 255 * value), channels, height).data);
    } else {
      const pixels = new Uint32Array(image.data.buffer);
      const size = height * width;
      const whole = magnitude(this.values);
      const groups = this.byMap && !this.isVector ? channels : 1;
      for (let group = 0; group < groups; group++) {
        const [start, end] = groups === 1 ? [0, this.values.length] : [group * size, (group + 1) * size];
        const part = this.values.subarray(start, end);
        this.colours.paint(pixels.subarray(start, end), part, groups === 1 ? whole : magnitude(part));
      }
    }
    this.strip.getContext("2d").putImageData(image, 0, 0);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.fillStyle = getComputedStyle(this.element).getPropertyValue("--frame");
    for (let tile = 0; tile < this.tiles; tile++) {
      const [left, top] = this.corner(tile);
      context.fillRect(left - FRAME, top - FRAME, this.tileWidth + 2 * FRAME, this.tileHeight + 2 * FRAME);
      context.drawImage(
        this.strip, 0, tile * height, width, height, left, top, this.tileWidth, this.tileHeight,
      );
    }
    if (this.view.captions) this.writeCaptions(context);
    const [low, high] = extremes(this.values);
    this.range.textContent = `${shown(low, 3)} … ${shown(high, 3)}`;
  }

  /** The class of each unit, in its cell. */
  writeCaptions(context) {
    const range = magnitude(this.values);
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    this.view.captions.forEach((caption, tile) => {
      const [left, top] = this.corner(tile);
      context.fillStyle = inkOn(this.colours.mix(range ? this.values[tile] / range : 0));
      context.fillText(caption, left + this.tileWidth / 2, top + this.tileHeight / 2 + 0.5, this.tileWidth);
    });
  }

  /** Outline a box of units in each map, or all maps at once if the box is everything; `strong` marks the unit itself. */
  mark(box, strong) {
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    this.element.classList.toggle("selected", Boolean(box && strong));
    if (!box || !this.scale) return;
    const { channels, height, width } = this.view.size;
    const isWhole = box.c1 - box.c0 === channels && box.y1 - box.y0 === height && box.x1 - box.x0 === width;
    const outlines = [];
    if (isWhole && !this.view.isInput) {
      const [right, bottom] = [this.corner(this.columns - 1)[0], this.corner(this.tiles - 1)[1]];
      outlines.push([FRAME, FRAME, right + this.tileWidth - FRAME, bottom + this.tileHeight - FRAME]);
    } else {
      const [first, end] = this.view.isInput ? [0, 1] : [box.c0, box.c1];
      for (let tile = first; tile < end; tile++) {
        const [left, top] = this.corner(tile);
        outlines.push([
          left + box.x0 * this.scale, top + box.y0 * this.scale,
          (box.x1 - box.x0) * this.scale, (box.y1 - box.y0) * this.scale,
        ]);
      }
    }
    const styles = getComputedStyle(this.element);
    for (const [colour, lineWidth] of [["--outline-ground", strong ? 4 : 3], ["--outline", strong ? 2 : 1.25]]) {
      context.strokeStyle = styles.getPropertyValue(colour);
      context.lineWidth = lineWidth;
      for (const outline of outlines) context.strokeRect(...outline);
    }
  }
}
