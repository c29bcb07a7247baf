/** The values of every frame of one metric, as a line. */
class Chart {
  static LEFT = 52;
  static RIGHT = 10;

  constructor(figure, metric, seek) {
    this.figure = figure;
    this.metric = metric;
    this.svg = figure.querySelector("svg");
    const at = (event) => this.#frameAt(event.clientX - this.svg.getBoundingClientRect().left);
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      seek(at(event));
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (event.buttons) seek(at(event));
      this.#point(at(event));
    });
    this.svg.addEventListener("pointerleave", () => this.#point(null));
    figure.querySelector(".worst").addEventListener("click", () => seek(this.worst));
  }

  text(value) {
    if (value === null) return "–";
    return value.toFixed(this.metric.digits) + (this.metric.unit && ` ${this.metric.unit}`);
  }

  show(values, playable) {
    this.values = values;
    this.playable = playable; // frames that the players have
    this.figure.hidden = !values;
    if (!values) return;
    const known = values.filter((value) => value !== null);
    const pick = this.metric.worst === "ascending" ? Math.min : Math.max;
    const worst = known.length ? known.reduce((a, b) => pick(a, b)) : null;
    const mean = known.length === values.length ? known.reduce((a, b) => a + b) / known.length : null;
    this.worst = Math.max(values.indexOf(worst), 0);
    this.figure.querySelector(".mean").textContent = this.text(mean);
    this.figure.querySelector(".worst").textContent = `${this.text(worst)} at frame ${this.worst}`;
    this.#draw(known, mean);
  }

  mark(frame) {
    if (!this.values) return;
    const value = this.values[frame] ?? null;
    this.figure.querySelector("output").textContent = this.text(value);
    const x = this.#x(frame);
    this.cursor.setAttribute("transform", `translate(${x} 0)`);
    this.dot.setAttribute("transform", `translate(${x} ${value === null ? -99 : this.#y(value)})`);
  }

  #x(frame) {
    const last = this.values.length - 1;
    return Chart.LEFT + (last ? frame / last : 0.5) * (this.width - Chart.LEFT - Chart.RIGHT);
  }

  #y(value) {
    return 6 + (1 - (value - this.low) / (this.high - this.low)) * 84;
  }

  #frameAt(x) {
    const last = this.values.length - 1;
    const part = (x - Chart.LEFT) / (this.width - Chart.LEFT - Chart.RIGHT);
    return clamp(Math.round(part * last), 0, last);
  }

  #add(name, attributes, text) {
    const node = document.createElementNS(this.svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return this.svg.appendChild(node);
  }

  #draw(known, mean) {
    const last = this.values.length - 1;
    this.width = this.svg.clientWidth || 800;
    this.svg.replaceChildren();
    const ticks = niceTicks(...extent(known), 4);
    [this.low, this.high] = [ticks[0], ticks[ticks.length - 1]];
    if (this.playable && this.playable <= last) {
      const x = this.#x(this.playable - 0.5);
      this.#add("rect", { class: "beyond", x, y: 6, width: this.width - Chart.RIGHT - x, height: 84 });
    }
    for (const tick of ticks) {
      const y = this.#y(tick);
      this.#add("line", { class: "grid", x1: Chart.LEFT, x2: this.width - Chart.RIGHT, y1: y, y2: y });
      this.#add("text", { x: Chart.LEFT - 8, y: y + 4, "text-anchor": "end" }, tickText(tick, ticks));
    }
    for (const frame of niceTicks(0, last, this.width / 90).filter((f) => Number.isInteger(f) && f <= last)) {
      this.#add("text", { x: this.#x(frame), y: 108, "text-anchor": "middle" }, frame);
    }
    if (mean !== null) {
      const y = this.#y(mean);
      this.#add("line", { class: "average", x1: Chart.LEFT, x2: this.width - Chart.RIGHT, y1: y, y2: y });
    }
    this.#add("path", { class: "series", d: this.#path() });
    this.pointer = this.#add("line", { class: "pointer", y1: 2, y2: 90, visibility: "hidden" });
    this.label = this.#add("text", { y: 14 });
    this.cursor = this.#add("line", { class: "cursor", y1: 2, y2: 90 });
    this.dot = this.#add("circle", { class: "dot", r: 4 });
  }

  /** The line; where several frames share a pixel, from their lowest to their highest. */
  #path() {
    const step = Math.max(1, Math.ceil(this.values.length / this.width));
    const points = [];
    for (let start = 0; start < this.values.length; start += step) {
      const known = this.values.slice(start, start + step).filter((value) => value !== null);
      if (!known.length) points.push(null);
      else for (const value of step > 1 ? [Math.min(...known), Math.max(...known)] : known) points.push([start, value]);
    }
    return points
      .map((point, i) => point && `${points[i - 1] ? "L" : "M"}${this.#x(point[0]).toFixed(1)} ${this.#y(point[1]).toFixed(1)}`)
      .filter(Boolean)
      .join("");
  }

  #point(frame) {
    this.pointer.setAttribute("visibility", frame === null ? "hidden" : "visible");
    this.label.textContent = frame === null ? "" : `frame ${frame}: ${this.text(this.values[frame])}`;
    if (frame === null) return;
    const x = this.#x(frame);
    const right = x > this.width / 2; // the label is on the side where there is room
    this.pointer.setAttribute("transform", `translate(${x} 0)`);
    this.label.setAttribute("x", right ? x - 6 : x + 6);
    this.label.setAttribute("text-anchor", right ? "end" : "start");
  }
}

/** The least and the greatest; a call takes only so many arguments, and a film has more frames. */
function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** Round numbers from at or below `low` to at or above `high`, about `count` of them. */
function niceTicks(low, high, count) {
  if (!Number.isFinite(low)) [low, high] = [0, 1];
  if (high - low < 1e-6) [low, high] = [low - 0.5 * Math.max(Math.abs(low) / 50, 0.01), high + 0.5 * Math.max(Math.abs(high) / 50, 0.01)];
  const rough = (high - low) / Math.max(count - 1, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function tickText(tick, ticks) {
  const digits = Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9));
  return tick.toFixed(digits);
}
