"use strict";
// The drawing pad, and how a drawing becomes one that looks like the training images.

const PAD_SIDE = 448;
const LARGEST_MAGNIFICATION = 2.5;
const INK_THRESHOLD = 0.25;

class Pad {
  /** onChange is called after each stroke and each new picture. */
  constructor(canvas, description, onChange) {
    this.canvas = canvas;
    this.description = description;
    this.style = description.drawing;
    this.channels = description.input.channels;
    this.onChange = onChange;
    this.tool = "pen";
    this.width = 0.09;
    this.fits = this.style.extent !== null;
    this.colour = grey(this.style.ink);
    canvas.width = canvas.height = PAD_SIDE;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.context.lineCap = this.context.lineJoin = "round";
    this.cursor = [PAD_SIDE / 2, PAD_SIDE / 2];
    this.listen();
    this.reset();
  }

  listen() {
    const { canvas } = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      last = this.place(event);
      this.stroke(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      for (const part of event.getCoalescedEvents().concat(event)) {
        const next = this.place(part);
        this.stroke(last, next);
        last = next;
      }
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = this.cursor;
      this.cursor = from.map((at, axis) => Math.min(PAD_SIDE, Math.max(0, at + (step[axis] * PAD_SIDE) / 28)));
      if (event.shiftKey) this.stroke(from, this.cursor);
      canvas.dispatchEvent(new CustomEvent("cursor"));
    });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * PAD_SIDE, ((event.clientY - box.top) / box.height) * PAD_SIDE];
  }

  stroke(from, to) {
    const pen = this.tool === "pen";
    this.context.strokeStyle = pen ? this.colour : grey(this.style.background);
    this.context.lineWidth = this.width * PAD_SIDE * (pen ? 1 : 1.8);
    this.context.beginPath();
    this.context.moveTo(...from);
    this.context.lineTo(...to);
    this.context.stroke();
    this.exact = null;
    this.empty = false;
    this.onChange();
  }

  /** An even ground without a call of onChange. */
  reset() {
    this.context.fillStyle = grey(this.style.background);
    this.context.fillRect(0, 0, PAD_SIDE, PAD_SIDE);
    this.exact = null;
    this.empty = true;
    this.picture = false;
  }

  clear() {
    this.reset();
    this.onChange();
  }

  /** An example of the data set: planes of the style's side. */
  showExample(planes) {
    this.show(canvasOf(imageOf(planes, this.channels, this.style.side)), false);
    this.onChange();
  }

  /** Any picture: until it is drawn over, the network gets it (up to 2048 pixels a side) as `cnnlab predict` gives it. */
  showPicture(picture, width, height) {
    const { side, resize } = this.description.input;
    const reduction = Math.min(1, 2048 / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * reduction));
    canvas.height = Math.max(1, Math.round(height * reduction));
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const planes = planesOf(data, this.channels);
    const exact = evaluationView(planes, this.channels, canvas.height, canvas.width, side, resize);
    const cut = (Math.min(canvas.width, canvas.height) * side) / resize;
    this.show(canvas, true, (canvas.width - cut) / 2, (canvas.height - cut) / 2, cut);
    this.exact = exact;
    this.onChange();
  }

  show(canvas, smooth, left = 0, top = 0, side = canvas.width) {
    this.context.imageSmoothingEnabled = smooth;
    this.context.drawImage(canvas, left, top, side, side, 0, 0, PAD_SIDE, PAD_SIDE);
    this.exact = null;
    this.empty = false;
    this.picture = true;
  }

  /** Light becomes dark: a digit in black on white paper then looks like those in white on black. */
  invert() {
    if (this.empty) return;
    this.picture = true;
    const image = this.context.getImageData(0, 0, PAD_SIDE, PAD_SIDE);
    for (let i = 0; i < image.data.length; i++) if (i % 4 !== 3) image.data[i] = 255 - image.data[i];
    this.context.putImageData(image, 0, 0);
    this.exact = this.exact && this.exact.map((value) => 255 - value);
    this.onChange();
  }

  /** What the network gets: small, the planes of the style's side, and pixels, C * H * W in [0, 1]. */
  read() {
    const { side } = this.description.input;
    const small = this.exact ? null : this.downsampled();
    const planes = this.exact || resize(small, this.channels, this.style.side, this.style.side, side, side);
    return { small, pixels: planes.map((value) => value / 255) };
  }

  /** Planes of the style's side: means over the pad's pixels, after the drawing was brought to size and place. */
  downsampled() {
    const { side, background } = this.style;
    const factor = Math.max(2, Math.ceil(224 / side));
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side * factor;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = grey(background);
    context.fillRect(0, 0, canvas.width, canvas.height);
    const placed = this.fits && !this.picture && this.placement();
    const { scale, left, top } = placed || { scale: 1, left: 0, top: 0 };
    const size = canvas.width;
    context.drawImage(this.canvas, left * size, top * size, scale * size, scale * size);
    const planes = planesOf(context.getImageData(0, 0, size, size).data, this.channels);
    return blockMeans(planes, this.channels, size, factor);
  }

  /** Scale of the drawing and where its left top corner goes, in sides of the image; null for an empty pad. */
  placement() {
    const { data } = this.context.getImageData(0, 0, PAD_SIDE, PAD_SIDE);
    const { background, ink, extent, centre, at } = this.style;
    const box = { top: PAD_SIDE, left: PAD_SIDE, bottom: 0, right: 0 };
    const mass = { sum: 0, y: 0, x: 0 };
    for (let y = 0; y < PAD_SIDE; y += 2) {
      for (let x = 0; x < PAD_SIDE; x += 2) {
        const level = (data[4 * (y * PAD_SIDE + x)] / 255 - background) / (ink - background);
        if (level < INK_THRESHOLD) continue;
        box.top = Math.min(box.top, y);
        box.left = Math.min(box.left, x);
        box.bottom = Math.max(box.bottom, y + 2);
        box.right = Math.max(box.right, x + 2);
        mass.sum += level;
        mass.y += level * (y + 1);
        mass.x += level * (x + 1);
      }
    }
    if (!mass.sum) return null;
    const longer = Math.max(box.bottom - box.top, box.right - box.left) / PAD_SIDE;
    const scale = Math.min(extent / longer, LARGEST_MAGNIFICATION);
    const middle = centre === "mass"
      ? [mass.y / mass.sum, mass.x / mass.sum]
      : [(box.top + box.bottom) / 2, (box.left + box.right) / 2];
    return { scale, top: at[0] - (scale * middle[0]) / PAD_SIDE, left: at[1] - (scale * middle[1]) / PAD_SIDE };
  }
}

/** A CSS grey of a level in [0, 1]. */
function grey(level) {
  const value = Math.round(level * 255);
  return `rgb(${value} ${value} ${value})`;
}
