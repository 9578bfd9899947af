"use strict";
// What rows and inspector share: colours, numbers, canvases and elements.

const SHADES = 256;
const FAINTEST = 0.12; // how far from zero's colour the smallest value that is not zero lies

/** A colour for each sign: zero is the ground, and even the smallest other value can be told from it. */
class SignedColours {
  constructor(styles) {
    const stop = (name) => styles.getPropertyValue(name).trim().split(/\s+/).map(Number);
    this.zero = stop("--zero");
    this.positive = [this.zero, stop("--positive-middle"), stop("--positive-end")];
    this.negative = [this.zero, stop("--negative-middle"), stop("--negative-end")];
    this.table = new Uint32Array(2 * SHADES + 1);
    for (let shade = -SHADES; shade <= SHADES; shade++) {
      const [r, g, b] = this.mix(shade / SHADES);
      this.table[shade + SHADES] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
  }

  /** [r, g, b] of a value in [-1, 1]. */
  mix(value) {
    if (!value) return this.zero;
    const stops = value > 0 ? this.positive : this.negative;
    const at = 2 * (FAINTEST + (1 - FAINTEST) * Math.min(1, Math.abs(value)));
    const [from, to] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    return from.map((level, i) => Math.round(level + (to[i] - level) * (at < 1 ? at : at - 1)));
  }

  /** Fill a Uint32 view of ImageData with the colours of values in [-range, range]. */
  paint(target, values, range) {
    const factor = range > 0 ? SHADES / range : 0;
    for (let i = 0; i < values.length; i++) {
      const scaled = values[i] * factor || 0; // NaN looks like zero
      const shade = scaled > 0 ? Math.ceil(scaled) : Math.floor(scaled);
      target[i] = this.table[SHADES + Math.max(-SHADES, Math.min(SHADES, shade))];
    }
  }
}

/** Black or white, whichever can be read on a colour. */
function inkOn([r, g, b]) {
  return 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#111" : "#fff";
}

/** Smallest and largest of values. */
function extremes(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** The largest magnitude of values. */
function magnitude(values) {
  const [low, high] = extremes(values);
  return Math.max(-low, high, 0);
}

/** An element with properties and children. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A number for people: some digits, a true minus. */
function shown(value, digits = 4) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const decimals = size < 0.1 ? 3 : size < 1 ? digits - 1 : Math.max(0, digits - Math.ceil(Math.log10(size + 1e-9)));
  const text = size < 0.0005 ? value.toExponential(1) : value.toFixed(decimals);
  return text.replace("-", "−");
}

/** A canvas of CSS pixels on any screen. */
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  return canvas;
}
