// Panels: small figures with fixed axes, drawn as SVG in the page's own ink.
// An axis never moves with the data: what lies outside is shown as a triangle at the edge.

const COLOURS = {blue: "color-mix(in srgb, #0072B2 85%, currentColor)", orange: "#D55E00", green: "#009E73", purple: "#CC79A7", sky: "#56B4E9"}; // Okabe and Ito
const EDGE = {left: 38, right: 10, top: 8, bottom: 30};

/**
 * A figure with a title. Axes are {from, to, log, plain, ticks, label}; `x` and `y` may be replaced. plain: a
 * logarithmic axis y with its ticks as numbers.
 *
 * show({curves, levels, bars, at, alt}) draws anew:
 *   curves  [{x, y, colour, dots, line, dashed, pale, beyond}]   line and dots are widths in px; beyond:
 *           triangles for what lies outside the axes, as dots have them
 *   levels  [{y, text, colour}]                          horizontal lines
 *   bars    {edges, heights, colour}                     a histogram
 *   fields  [{from, to, fill, text, chosen}]             rectangles between two corners {x, y}
 *   at      a value of x to be marked
 *   alt     the picture in words
 */
class Panel {
  constructor({title, note = "", x, y, height = 170}) {
    Object.assign(this, {x, y, height, width: 320, shown: {curves: []}});
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", title.replace(/<[^>]*>/g, "")); // until it is drawn
    this.svg.setAttribute("height", height);
    this.note = make("span", {class: "lab-note"}, note);
    this.node = make("figure", {class: "lab-panel"},
      make("figcaption", {}, make("strong", {}, title), " ", this.note), this.svg);
    if (typeof ResizeObserver !== "undefined")
      new ResizeObserver(() => {
        const width = Math.round(this.svg.clientWidth);
        if (width && width !== this.width) { this.width = width; this.draw(); }
      }).observe(this.svg);
  }

  show(shown) {
    this.shown = shown;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  /** Pixels for a value on an axis, and the value for pixels. */
  px(axis, value) {
    const {from, to, log} = this[axis];
    const share = log ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from);
    const {left, right, top, bottom} = EDGE;
    return axis === "x" ? left + share * (this.width - left - right)
      : this.height - bottom - share * (this.height - top - bottom);
  }

  value(axis, px) {
    const {from, to, log} = this[axis], {left, right, top, bottom} = EDGE;
    const share = axis === "x" ? (px - left) / (this.width - left - right)
      : (this.height - bottom - px) / (this.height - top - bottom);
    return log ? from * (to / from) ** share : from + share * (to - from);
  }

  /** Where a pointer is, in the axes' values. */
  where(event) {
    const box = this.svg.getBoundingClientRect();
    return {x: this.value("x", event.clientX - box.left), y: this.value("y", event.clientY - box.top)};
  }

  draw() {
    const {curves = [], levels = [], bars, fields = [], at, alt} = this.shown, {left, right, top, bottom} = EDGE;
    const wide = this.width - left - right, high = this.height - top - bottom;
    const parts = [...this.axes()];
    const inside = [];
    if (bars) inside.push(this.bars(bars));
    inside.push(...fields.map(field => this.field(field)));
    if (at != null) inside.push(stroke(`M${round(this.px("x", at))} 0V${this.height}`, "currentColor", 1, 'opacity="0.35"'));
    for (const {y, colour = "currentColor"} of levels)
      inside.push(stroke(`M0 ${round(this.px("y", y))}H${this.width}`, colour, 1, 'stroke-dasharray="2 3"'));
    for (const curve of curves) inside.push(this.curve(curve));
    for (const {from, to, text} of fields) { // above the curves, to be read
      const [x, y] = ["x", "y"].map(axis => (this.px(axis, from[axis]) + this.px(axis, to[axis])) / 2);
      inside.push(label(x, y + 4, "middle", text));
    }
    // A nested <svg> cuts off what leaves the axes, and needs no name as a clip path would.
    parts.push(`<svg x="${left - 3}" y="${top - 3}" width="${wide + 6}" height="${high + 6}" `
      + `viewBox="${left - 3} ${top - 3} ${wide + 6} ${high + 6}">${inside.join("")}</svg>`);
    for (const curve of curves) if (curve.dots || curve.beyond) parts.push(this.beyond(curve));
    if (bars) parts.push(this.beyond({x: bars.heights.map((_, k) => (bars.edges[k] + bars.edges[k + 1]) / 2), y: bars.heights, colour: bars.colour}));
    for (const {y, text, colour = "currentColor"} of levels) {
      const height = this.px("y", y);
      if (text && height > top && height < this.height - bottom)
        parts.push(label(this.width - right - 2, height - 4, "end", text, colour));
    }
    this.svg.innerHTML = parts.join("");
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    if (alt) this.svg.setAttribute("aria-label", alt);
  }

  * axes() {
    const {left, right, top, bottom} = EDGE, floor = this.height - bottom, end = this.width - right;
    for (const tick of this.y.ticks) {
      const height = round(this.px("y", tick));
      yield stroke(`M${left} ${height}H${end}`, "currentColor", 1, 'opacity="0.13"');
      yield label(left - 5, height + 4, "end", this.y.log && !this.y.plain ? powerOfTen(Math.round(Math.log10(tick))) : tick);
    }
    for (const tick of this.x.ticks) {
      const across = round(this.px("x", tick));
      yield stroke(`M${across} ${floor}v4`, "currentColor", 1, 'opacity="0.5"');
      yield label(across, floor + 14, "middle", tick);
    }
    yield stroke(`M${left} ${floor}H${end}`, "currentColor", 1, 'opacity="0.5"');
    yield label(end, this.height - 3, "end", this.x.label);
  }

  curve({x, y, colour, dots = 0, line = 0, dashed, pale}) {
    let path = "", points = "", drawn = false;
    for (let k = 0; k < x.length; k++) {
      const across = round(this.px("x", x[k]));
      // Far beyond an axis is as good as beyond it, and 0 has no logarithm.
      const height = round(Math.max(-9999, Math.min(9999, this.px("y", y[k]))));
      if (Number.isNaN(height)) { drawn = false; continue; }
      path += `${drawn ? "L" : "M"}${across} ${height}`;
      points += `M${across} ${height}h0`;
      drawn = true;
    }
    const faint = pale ? 'opacity="0.35" ' : "";
    return (line ? stroke(path, colour, line, faint + (dashed ? 'stroke-dasharray="5 4"' : "")) : "")
      + (dots ? stroke(points, colour, dots, faint + ROUND) : "");
  }

  /** Triangles at the edge for points beyond it, and in words how far the farthest lies. */
  beyond({x, y, colour}) {
    const {from, to} = this.y, {top, bottom, left} = EDGE;
    let path = "", least = Infinity, most = -Infinity;
    for (let k = 0; k < x.length; k++) {
      const across = round(this.px("x", x[k]));
      if (y[k] < from) { path += `M${across - 3} ${this.height - bottom - 6}h6l-3 5z`; least = Math.min(least, y[k]); }
      if (y[k] > to || Number.isNaN(y[k])) { path += `M${across - 3} ${top + 6}h6l-3 -5z`; most = Math.max(most, y[k]); }
    }
    const mark = path && `<path d="${path}" fill="${colour}"/>`;
    const low = least < from ? label(left + 4, this.height - bottom - 9, "start", `↓ ${inWords(least)}`) : "";
    const high = most > to ? label(left + 4, top + 18, "start", `↑ ${inWords(most)}`) : "";
    return mark + low + high;
  }

  field({from, to, fill, chosen}) {
    const [left, right] = [from, to].map(corner => this.px("x", corner.x)), [floor, top] = [from, to].map(corner => this.px("y", corner.y));
    return `<rect x="${round(left + 0.5)}" y="${round(top + 0.5)}" width="${round(right - left - 1)}" height="${round(floor - top - 1)}" fill="${fill}" `
      + `${chosen ? 'stroke="currentColor" stroke-width="2.5"' : ""}/>`;
  }

  bars({edges, heights, colour}) {
    const floor = this.px("y", this.y.from);
    return heights.map((height, k) => {
      const from = this.px("x", edges[k]), to = this.px("x", edges[k + 1]), top = this.px("y", height);
      return height ? `<rect x="${round(from + 0.5)}" y="${round(top)}" width="${round(Math.max(1, to - from - 1))}" `
        + `height="${round(floor - top)}" fill="${colour}"/>` : "";
    }).join("");
  }
}

const ROUND = 'style="stroke-linecap:round"'; // as a style: matplotlib's figures on a page say butt for every element
const round = value => Math.round(value * 10) / 10;
const stroke = (path, colour, width, more = "") =>
  `<path d="${path}" fill="none" stroke="${colour}" stroke-width="${width}" stroke-linejoin="round" ${more}/>`;
const label = (x, y, anchor, text, colour = "currentColor") =>
  `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" fill="${colour}">${text}</text>`;

/** Powers of ten from one exponent to another. */
const decades = (from, to, step) => Array.from({length: Math.floor((to - from) / step) + 1}, (_, k) => 10 ** (from + k * step));
