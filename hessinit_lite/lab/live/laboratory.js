// The laboratory: the whole bench in one view. Knobs above, three panels by layer, one layer, and training.

const DECADES = {from: 1e-12, to: 1e6, log: true, ticks: decades(-12, 6, 3)};
const PIN_COLOURS = [COLOURS.orange, COLOURS.green, COLOURS.purple];
const BY_LAYER = {
  signal: {title: "Signal", note: "mean square of u", of: "signal"},
  gradient: {title: "Gradient", note: "mean square of ∂L/∂u, last layer = 1", of: "gradient"},
  norms: {title: "Hessian", note: "norm of each layer’s block", of: "norm"},
};
/** What hessian_init_ does when it is not told otherwise: the forward gain's weights, scaled layer by layer. */
const BALANCED = {balanced: true, scheme: "forward", factor: 1, biases: null};
const MOST_LAYERS = 60, GUESSES = wholeNumbers(-12, 6);

/** Knobs of a network, by the name of what they set: {name: knob}; `labels` replaces some of their names. */
function netKnobs(bench, labels = {}) {
  const change = name => value => bench.change({[name]: value});
  const slider = (name, label, places, more) => makeSlider({name, label: labels[name] ?? label, ...places, change: change(name), ...more});
  return {
    scheme: makeMenu({name: "scheme", label: "scheme", options: SCHEMES, change: scheme => bench.change({scheme, biases: null})}),
    activation: makeMenu({name: "activation", label: "activation", options: ACTIVATIONS, change: change("activation")}),
    depth: slider("depth", "depth", wholeNumbers(1, MOST_LAYERS), {text: String}),
    width: slider("width", "width", logarithmic(4, 128, 80, Math.round), {text: String}),
    factor: slider("factor", "σ of weights", logarithmic(0.25, 4, 96), {
      text: value => `× ${value.toFixed(2)}`, reset: () => bench.change({factor: 1}),
    }),
    biases: slider("biases", "σ of biases", even(0, 1, 100), {
      text: value => value.toFixed(2), reset: () => bench.change({biases: null}),
    }),
    dropout: slider("dropout", "dropout", even(0, 0.9, 18), {text: value => value ? value.toFixed(2) : "none"}),
  };
}

function showKnobs(knobs, bench) {
  for (const [name, knob] of Object.entries(knobs)) {
    const own = name === "biases" && bench.setting.biases == null;
    knob.show(own ? schemesBias(bench.setting.scheme, bench.setting.width) : bench.setting[name]);
    if (own) knob.node.querySelector(".lab-value").textContent = "scheme’s";
  }
}

/** The three panels by layer, with what is drawn in them: `panels.draw(bench, guess)`. */
class LayerPanels {
  constructor(bench, {names = Object.keys(BY_LAYER), layers = MOST_LAYERS, height} = {}) {
    const ticks = [1, ...decades(1, 1, 1).flatMap(() => [1, 2, 3, 4, 5, 6].map(k => 10 * k))].filter(tick => tick <= layers);
    this.panels = Object.fromEntries(names.map(name => [name, new Panel({
      ...BY_LAYER[name], x: {from: 0.5, to: layers + 0.5, ticks, label: "layer"}, y: DECADES, height,
    })]));
    this.nodes = Object.values(this.panels).map(panel => panel.node);
    for (const [name, panel] of Object.entries(this.panels)) {
      const point = event => {
        if (this.guessing) { if (event.buttons) this.guessing(name, panel.where(event)); }
        else bench.point(panel.where(event).x);
      };
      panel.svg.addEventListener("pointermove", point);
      panel.svg.addEventListener("pointerdown", event => {
        if (this.guessing) panel.svg.setPointerCapture(event.pointerId);
        point(event);
      });
    }
  }

  draw(bench, {guess = null, hidden = false, pins = bench.pins} = {}) {
    const {seen, setting} = bench;
    if (!seen) return;
    const expected = seen.step ? null : theoryOf(bench);
    for (const [name, panel] of Object.entries(this.panels)) {
      const values = relative(name, seen[name]), layers = values.map((_, k) => k + 1), {of} = BY_LAYER[name];
      const curves = [];
      if (!hidden) {
        for (const pin of pins) if (pin.curves) {
          const own = relative(name, pin.curves[name]);
          curves.push({x: own.map((_, k) => k + 1), y: own, colour: pin.colour, line: 2});
        }
        if (expected) {
          const anchor = name === "norms" ? last(seen.norms) || last(seen.old) || NaN : 1;
          curves.push({x: expected[of].map((_, k) => k + 1), y: expected[of].map(each => each * anchor), colour: "currentColor", line: 1.5, dashed: true});
        }
        const coming = name === "norms" && !seen.complete;
        if (coming && seen.old)
          curves.push({...known(layers, seen.old), colour: COLOURS.blue, dots: 4, pale: true});
        curves.push({...(coming ? known(layers, values) : {x: layers, y: values}), colour: COLOURS.blue, line: 1, dots: 4.5});
      }
      if (guess?.[name]) curves.push({x: guess[name].map((_, k) => k + 1), y: guess[name], colour: COLOURS.sky, line: 3});
      panel.show({
        curves, levels: [{y: 1}], at: hidden ? null : bench.layer,
        alt: `${panel.title ?? BY_LAYER[name].title} by layer, ${BY_LAYER[name].note}: `
          + (hidden ? "hidden until you have guessed" : `${inWords(values[0])} at layer 1, ${inWords(last(values))} at layer ${setting.depth}`),
      });
    }
  }
}

/** As shown: the gradient in units of the last layer's, since its size is the batch's. */
const relative = (name, values) => name === "gradient" ? values.map(each => each / last(values)) : values;
const last = values => values ? values[values.length - 1] : undefined;

/** Points that are numbers already: a norm that is still to come is not one beyond the axis. */
function known(x, y) {
  const here = [...y.keys()].filter(k => !Number.isNaN(y[k]));
  return {x: here.map(k => x[k]), y: here.map(k => y[k])};
}

/** Theory for what is set, which is ahead of what is seen while a knob moves. */
function theoryOf(bench) {
  const {setting, seen} = bench, key = JSON.stringify([setting, seen.inputSquare, seen.scales]);
  if (bench.theory?.key !== key)
    bench.theory = {key, ...predict(HessinitEngine, {...setting, sizes: sizesOf(setting)}, seen.inputSquare, seen.scales)};
  return bench.theory.signal ? bench.theory : null;
}

/** One layer: its pre-activations, with the normal density that theory expects, and its numbers. */
class OneLayer {
  constructor(bench) {
    this.panel = new Panel({
      title: "One layer", x: {from: -4, to: 4, ticks: [-4, -2, 0, 2, 4], label: "u"},
      y: {from: 0, to: 1, ticks: [0, 0.5, 1]},
    });
    this.knob = makeSlider({
      name: "layer", label: "layer", ...wholeNumbers(1, MOST_LAYERS), text: String, change: layer => bench.point(layer),
    });
    this.panel.node.append(this.knob.node);
    this.node = this.panel.node;
  }

  draw(bench) {
    const {seen, layer} = bench, k = layer - 1;
    this.knob.input.max = bench.setting.depth - 1;
    this.knob.show(layer);
    if (!seen || k >= seen.depth) return;
    const shares = Array.from(seen.histograms[k]), bins = shares.length, wide = 8 / bins;
    const edges = Array.from({length: bins + 1}, (_, j) => -4 + j * wide);
    const x = Array.from({length: 161}, (_, j) => -4 + j / 20), q = seen.step ? null : theoryOf(bench)?.signal[k];
    const density = q && x.map(u => Math.exp(-u * u / 2 / q) / Math.sqrt(2 * Math.PI * q));
    const numbers = `mean square ${inWords(seen.signal[k])}, norm ${Number.isNaN(seen.norms[k]) ? "…" : inWords(seen.norms[k])}`;
    this.panel.note.textContent = `${layer}: density of u; ${numbers}`;
    this.panel.show({
      bars: {edges, heights: shares.map(share => share / wide), colour: COLOURS.sky},
      curves: density ? [{x, y: density, colour: "currentColor", line: 1.5, dashed: true}] : [],
      alt: `Histogram of the pre-activations of layer ${layer}: ${numbers}`,
    });
  }
}

/** Loss and largest eigenvalue over the steps, with the rate on a logarithmic knob. */
class Training {
  constructor(bench) {
    this.bench = bench;
    const steps = () => ({from: 0, to: 200, ticks: [0, 50, 100, 150, 200], label: "step"});
    this.loss = new Panel({
      title: "Loss", note: "of the mini-batches", x: steps(), y: {from: 0, to: 4, ticks: [0, 1, 2, 3, 4]},
    });
    this.curvature = new Panel({
      title: "Curvature", note: "λ, largest eigenvalue of all", x: steps(),
      y: {from: 1e-3, to: 1e6, log: true, ticks: decades(-3, 6, 3)},
    });
    this.go = makeButton("Train", () => bench.training ? bench.pause() : bench.train(), {kind: "lab-go"});
    this.back = makeButton("Back to the same weights", () => bench.back());
    this.balance = makeButton("Every norm at 1", () => bench.change(bench.setting.balanced ? {balanced: false} : BALANCED), {
      pressed: false, title: "scale the layers until the norm of each one’s Hessian block is 1",
    });
    this.optimizer = makeMenu({name: "optimizer", label: "optimizer", options: OPTIMIZERS, change: optimizer => bench.change({optimizer})});
    this.rate = makeSlider({
      name: "rate", label: "learning rate η", ...logarithmic(1e-4, 100, 240), change: rate => bench.change({rate}),
    });
    this.marks = make("div", {class: "lab-marks", "aria-hidden": "true"});
    this.rate.node.append(this.marks);
    this.choices = make("div", {class: "lab-row", role: "group", "aria-label": "set the learning rate to"});
    this.buttons = ["2/Σ‖H‖", "1/λ", "2/λ"].map(text => {
      const button = makeButton(text, () => bench.change({rate: Number(button.dataset.rate)}), {kind: "lab-small"});
      return button;
    });
    this.choices.append(...this.buttons);
    this.knobs = make("div", {class: "lab-train"},
      make("div", {class: "lab-row"}, this.go, this.back, this.balance), this.optimizer.node,
      make("div", {}, this.rate.node, this.choices));
    this.nodes = [this.loss.node, this.curvature.node];
  }

  draw(bench) {
    const {seen, setting, training} = bench;
    this.optimizer.show(setting.optimizer);
    this.rate.show(setting.rate);
    this.balance.setAttribute("aria-pressed", String(setting.balanced));
    this.go.textContent = training ? "Pause" : seen?.step ? "Train on" : "Train";
    this.back.disabled = !seen?.step && !training;
    if (!seen) return;
    this.drawMarks(seen.start ?? {});
    const pins = bench.pins.filter(pin => pin.curves?.losses?.length);
    this.curvature.x = drawLoss(this.loss, bench);
    const limit = 2 / setting.rate;
    this.curvature.show({
      curves: [...pins.map(pin => ({...pairs(pin.curves.lambdas), colour: pin.colour, line: 2})),
        {...pairs(seen.lambdas), colour: COLOURS.blue, line: 1.5, dots: 5}],
      levels: [{y: limit, text: setting.optimizer === "sgd" ? "2/η: SGD’s limit" : "2/η", colour: "currentColor"}],
      alt: `Largest eigenvalue of the Hessian ${inWords(seen.lambda ?? NaN)}, limit 2/η ${inWords(limit)}`,
    });
  }

  /** Rates that the curvature at the start suggests: ticks at the knob, and buttons that set them. */
  drawMarks({lambda, budget}) {
    const rates = [2 / budget, 1 / lambda, 2 / lambda], names = ["2/Σ‖H‖", "1/λ", "2/λ"];
    this.marks.replaceChildren(...rates.map((rate, k) => {
      const share = Math.log(rate / 1e-4) / Math.log(1e6);
      if (!(share >= 0 && share <= 1)) return "";
      const toLeft = k === 1 || share > 0.88; // 1/λ and 2/λ stand side by side; nothing leaves the page
      const mark = make("span", {class: `lab-mark lab-mark-${k} ${toLeft ? "lab-left" : ""}`}, names[k]);
      mark.style.left = `calc(8px + ${(100 * share).toFixed(2)}% - ${(16 * share).toFixed(2)}px)`;
      return mark;
    }));
    this.buttons.forEach((button, k) => {
      const possible = rates[k] > 0 && Number.isFinite(rates[k]);
      button.disabled = !possible;
      button.dataset.rate = Number(Math.min(100, Math.max(1e-4, rates[k])).toPrecision(3));
      button.textContent = possible ? `${names[k]} = ${inWords(rates[k])}` : names[k];
    });
  }
}

const mean = values => sum(values) / values.length;
const pairs = points => ({x: points.map(each => each[0]), y: points.map(each => each[1])});

/** At most 100 points: means over as many steps as that takes. */
function smooth(losses) {
  const size = Math.max(1, Math.ceil(losses.length / 100)), x = [], y = [];
  for (let from = 0; from < losses.length; from += size) {
    const part = losses.slice(from, from + size);
    x.push(from + part.length / 2);
    y.push(mean(part));
  }
  return {x, y};
}

/** The loss in its panel; steps go on to twice as many when these are full. Returns their axis. */
function drawLoss(panel, {seen, pins}, to = 200) {
  const trained = pins.filter(pin => pin.curves?.losses?.length);
  const most = Math.max(seen.losses.length, ...trained.map(pin => pin.curves.losses.length));
  while (to < most) to *= 2;
  panel.x = {from: 0, to, ticks: [0, to / 4, to / 2, 3 * to / 4, to], label: "step"};
  panel.show({
    curves: [...trained.map(pin => ({...smooth(pin.curves.losses), colour: pin.colour, line: 2, beyond: true})),
      {...smooth(seen.losses), colour: COLOURS.blue, line: 2, beyond: true}],
    levels: [{y: Math.log(10), text: "guessing: log 10"}],
    alt: seen.losses.length ? `Loss after ${seen.losses.length} steps: ${inWords(mean(seen.losses.slice(-10)))}` : "Loss: nothing trained yet",
  });
  return panel.x;
}

/** Draw the curves yourself before they are shown, by pointer or by two sliders a panel. */
class Guessing {
  constructor(bench, layers, redraw) {
    Object.assign(this, {bench, layers, redraw, on: false, hidden: false, guess: {}, of: null});
    this.toggle = makeButton("Guess first", () => this.turn(!this.on), {
      pressed: false, title: "draw the curves yourself before they are shown",
    });
    this.reveal = makeButton("Show", () => { this.hidden = false; redraw(); }, {kind: "lab-go"});
    this.reveal.hidden = true;
    this.knobs = Object.entries(layers.panels).map(([name, panel]) => {
      const ends = ["first", "last"].map(end => makeSlider({
        name: `guess-${name}-${end}`, label: `${end} layer: 10 to the power`, ...GUESSES, text: String,
        change: exponent => this.set(name, end, exponent),
      }));
      const node = make("div", {class: "lab-guess", hidden: true}, ends.map(end => end.node));
      panel.node.append(node);
      return {name, node, ends};
    });
  }

  turn(on) {
    [this.on, this.hidden, this.guess, this.of] = [on, on, {}, this.bench.setting];
    this.layers.guessing = on ? (name, point) => this.trace(name, point) : null;
    for (const panel of Object.values(this.layers.panels)) panel.svg.style.touchAction = on ? "none" : "";
    for (const {node} of this.knobs) node.hidden = !on;
    this.redraw();
  }

  curve(name) {
    return this.guess[name] ??= Array(this.bench.setting.depth).fill(1);
  }

  set(name, end, exponent) {
    const curve = this.curve(name), depth = curve.length;
    const ends = end === "first" ? [exponent, Math.log10(curve[depth - 1])] : [Math.log10(curve[0]), exponent];
    for (let k = 0; k < depth; k++) curve[k] = 10 ** (depth > 1 ? ends[0] + (ends[1] - ends[0]) * k / (depth - 1) : exponent);
    this.redraw();
  }

  trace(name, {x, y}) {
    const curve = this.curve(name), k = Math.min(curve.length, Math.max(1, Math.round(x))) - 1;
    const height = Math.min(DECADES.to, Math.max(DECADES.from, y)), from = this.traced?.name === name ? this.traced.k : k;
    const steps = Math.abs(k - from), before = curve[from];
    for (let j = 0; j <= steps; j++) // a quick stroke leaves layers out: fill them in
      curve[from + Math.sign(k - from) * j] = steps ? before * (height / before) ** (j / steps) : height;
    this.traced = {name, k};
    this.redraw();
  }

  /** A new network asks for a new guess. */
  draw() {
    const {setting} = this.bench, moved = OF_THE_NET.some(name => this.of?.[name] !== setting[name]);
    if (this.on && moved) [this.hidden, this.guess, this.of, this.traced] = [true, {}, setting, null];
    this.toggle.setAttribute("aria-pressed", String(this.on));
    this.reveal.hidden = !(this.on && this.hidden);
    for (const {name, ends} of this.knobs) {
      const curve = this.guess[name];
      ends.forEach((end, k) => end.show(curve ? Math.round(Math.log10(k ? last(curve) : curve[0])) : 0));
    }
  }

  /** How far off, as a factor, on average over the layers. */
  verdict() {
    if (!this.on) return "";
    if (this.hidden) return "Draw your guess in the panels (or set its ends with the sliders below them), then press Show. ";
    const words = Object.entries(this.guess).map(([name, curve]) => {
      const values = relative(name, this.bench.seen[name]);
      const off = mean(curve.map((guess, k) => Math.abs(Math.log10(guess / values[k]))));
      return Number.isFinite(off) ? `${BY_LAYER[name].title.toLowerCase()} by a factor of ${inWords(10 ** off)}` : "";
    }).filter(Boolean);
    return words.length ? `Your guess is off, on average over the layers: ${words.join(", ")}. ` : "";
  }
}

/** What is seen, in a sentence or two: computed, never typed in. */
function inSentences(bench, guessing) {
  const {seen, setting, solving, stopped, trouble} = bench;
  if (trouble) return `This could not be computed: ${trouble}`;
  if (!seen) return solving?.kind === "solving" ? "Solving for every norm at 1 …" : "Drawing the first network …";
  if (guessing?.on && guessing.hidden) return guessing.verdict();
  const {signal, gradient, norms, lambda, depth, losses, step, start} = seen;
  const words = [];
  if (solving?.kind === "solving")
    return `Solving for every norm at 1: after ${solving.measured} measurements the worst layer is a factor of ${inWords(Math.exp(Math.abs(solving.worst)))} away …`;
  if (solving?.kind === "solved" && !step)
    words.push(solving.converged ? `Every norm is at 1, after ${solving.steps} measurements.`
      : `No scales were found that bring every norm to 1; these are the best that were met.`);
  words.push(`The signal's mean square is ${inWords(signal[0])} at layer 1 and ${inWords(last(signal))} at layer ${depth}.`);
  words.push(`The gradient that reaches layer 1 is ${inWords(gradient[0] / last(gradient))} of that at the last layer.`);
  if (seen.complete) {
    const above = setting.optimizer === "sgd" && setting.rate > 2 / lambda && lambda > 0;
    words.push(Number.isFinite(lambda)
      ? `The layers' Hessian norms lie between ${inWords(Math.min(...norms))} and ${inWords(Math.max(...norms))}; the whole Hessian's largest eigenvalue is λ = ${inWords(lambda)}, so 2/λ = ${inWords(2 / lambda)}${above ? `, below the learning rate ${inWords(setting.rate, 3)}` : ""}.`
      : `The loss is ${inWords(seen.loss)}: the signal has overflowed, and there is no curvature to measure.`);
  }
  if (step) words.push(`After ${step} steps with ${OPTIMIZERS[setting.optimizer]} the loss is ${inWords(mean(losses.slice(-10)))} (it was ${inWords(start?.loss ?? losses[0])}).`);
  if (stopped === "diverged") words.push("Training has diverged: the loss is no longer a number. Go back to the same weights and take a smaller rate.");
  return (guessing?.verdict() ?? "") + words.join(" ");
}

/** The numbers of the panels, for those who cannot see them and for those who want to know exactly. */
function fillTable(table, {seen, setting}) {
  const cell = (tag, text, scope) => make(tag, {scope}, text);
  const rows = seen.signal.map((value, k) => make("tr", {}, cell("th", String(k + 1), "row"), cell("td", inWords(value, 3)),
    cell("td", inWords(seen.gradient[k] / last(seen.gradient), 3)), cell("td", Number.isNaN(seen.norms[k]) ? "…" : inWords(seen.norms[k], 3))));
  table.replaceChildren(
    make("caption", {}, `${inShort(setting)}, after ${seen.step} steps: loss ${inWords(seen.loss, 3)}, λ ${inWords(seen.lambda ?? NaN, 3)}, Σ‖H‖ ${inWords(seen.budget ?? NaN, 3)}`),
    make("thead", {}, make("tr", {}, ["layer", "signal", "gradient (last = 1)", "Hessian norm"].map(name => cell("th", name, "col")))),
    make("tbody", {}, rows));
}

/** The link that holds the setting and what is pinned, and the call that shows it in a notebook. */
function linkOf(bench) {
  const pins = bench.pins.map(({setting}) => `pin=${encodeURIComponent(toLink(setting))}`);
  return ["lab", toLink(bench.setting), ...pins].filter(Boolean).join("&");
}

function callOf({setting}) {
  const words = Object.entries(setting).filter(([name, value]) => value !== START[name])
    .map(([name, value]) => `${name}=${typeof value === "string" ? `"${value}"` : value === true ? "True" : value}`);
  return `hl.laboratory(${words.join(", ")})`;
}

function fullView(root, data, setting) {
  const onPage = root.dataset.link === "true", address = onPage ? location.hash.slice(1) : "";
  const linked = text => text.split("&")[0] === "lab" ? text : "";
  const bench = new Bench(data, {...setting, ...fromLink(linked(address))});
  const knobs = netKnobs(bench), layers = new LayerPanels(bench), one = new OneLayer(bench), training = new Training(bench);
  const seed = make("input", {type: "number", name: "seed", min: 1, max: 9999, "aria-label": "seed", "data-lm-suppress-shortcuts": "true",
    onchange: () => bench.change({seed: Math.min(9999, Math.max(1, Math.round(Number(seed.value)) || 1))})});
  const again = makeButton("Draw again", () => bench.change({seed: bench.setting.seed % 9999 + 1}));
  const says = make("p", {class: "lab-says", role: "status"}), legend = make("div", {class: "lab-legend"});
  const pin = makeButton("Pin", () => bench.pin(freeColour()), {title: "keep these curves for comparison"});
  const share = makeButton(onPage ? "Copy link" : "Copy as code", copy);
  const shared = make("input", {type: "text", readonly: true, hidden: true, class: "lab-shared", "aria-label": "to copy"});
  const table = make("table", {class: "lab-table"});
  const details = make("details", {}, make("summary", {}, "The numbers as a table"), make("div", {"aria-live": "polite", class: "lab-scroll", tabindex: "0", role: "region", "aria-label": "numbers by layer"}, table));
  details.addEventListener("toggle", () => bench.tell());
  const guessing = new Guessing(bench, layers, draw);
  const freeColour = () => PIN_COLOURS.find(colour => bench.pins.every(each => each.colour !== colour));

  async function copy() {
    const text = onPage ? `${location.href.split("#")[0]}#${linkOf(bench)}` : callOf(bench);
    try { await navigator.clipboard.writeText(text); share.textContent = "Copied"; }
    catch { // the page may not write to the clipboard: the reader does
      shared.hidden = false;
      shared.value = text;
      shared.select();
    }
    setTimeout(() => { share.textContent = onPage ? "Copy link" : "Copy as code"; }, 2000);
  }

  let written = 0;
  function remember() { // browsers allow a page only so many addresses a minute
    clearTimeout(written);
    written = setTimeout(() => history.replaceState(history.state, "", `#${linkOf(bench)}`), 300);
  }

  function draw() {
    showKnobs(knobs, bench);
    if (document.activeElement !== seed) seed.value = bench.setting.seed;
    guessing.draw();
    layers.draw(bench, {guess: guessing.guess, hidden: guessing.on && guessing.hidden});
    one.draw(bench);
    one.node.classList.toggle("lab-hidden", guessing.on && guessing.hidden);
    training.draw(bench);
    drawLegend();
    pin.disabled = !bench.seen?.complete || !freeColour();
    const text = inSentences(bench, guessing);
    // Said aloud it would never end while numbers run: those come when the picture is complete.
    says.setAttribute("aria-busy", String(!bench.seen?.complete || bench.training));
    if (says.textContent !== text) says.textContent = text;
    if (details.open && bench.seen?.complete) fillTable(table, bench);
    report(root, bench);
  }

  function drawLegend() {
    const item = (kind, text, colour) => make("span", {class: "lab-item"}, swatch(kind, colour), text);
    const pinned = bench.pins.map(each => make("span", {class: "lab-item lab-pin"}, swatch("line", each.colour),
      makeButton(inShort(each.setting), () => bench.change({...each.setting}), {kind: "lab-link", title: "go back to this setting"}),
      makeButton("×", () => { bench.pins = bench.pins.filter(other => other !== each); bench.tell(); }, {kind: "lab-link", title: "unpin"})));
    const key = JSON.stringify([bench.pins.map(each => [each.setting, each.colour])]);
    if (legend.dataset.key === key) return; // a button that is pressed must not be replaced meanwhile
    legend.dataset.key = key;
    legend.replaceChildren(item("dots", "measured", COLOURS.blue), item("dashed", "mean-field theory", "currentColor"), ...pinned);
    if (onPage) remember();
  }

  root.replaceChildren(make("div", {class: "lab-body"},
    make("div", {class: "lab-knobs", role: "group", "aria-label": "the network"}, Object.values(knobs).map(knob => knob.node),
      make("div", {class: "lab-knob lab-seed"}, make("label", {}, make("span", {class: "lab-name"}, "seed "), seed), again)),
    says,
    make("div", {class: "lab-panels"}, layers.nodes),
    make("div", {class: "lab-bar"}, legend, make("div", {class: "lab-row"}, guessing.reveal, guessing.toggle, pin, share, shared)),
    training.knobs,
    make("div", {class: "lab-panels"}, training.nodes, one.node),
    details));

  bench.listen(draw);
  if (onPage) {
    let before = JSON.stringify(bench.setting);
    bench.listen(() => {
      const now = JSON.stringify(bench.setting);
      if (now !== before) remember();
      before = now;
    });
    const pins = [...new URLSearchParams(linked(address))].filter(([name]) => name === "pin").map(([, text]) => fromLink(text));
    bench.repin(pins.slice(0, PIN_COLOURS.length), PIN_COLOURS);
    addEventListener("hashchange", () => {
      const text = linked(location.hash.slice(1));
      if (text && text !== linkOf(bench)) bench.change({...START, ...fromLink(text)});
    });
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => driveBy(root, bench));
    else driveBy(root, bench);
  }
  return bench;
}

/** Words in the page's text set the knobs. */
function driveBy(root, bench) {
  for (const button of document.querySelectorAll("button[data-lab]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      bench.change({...START, ...fromLink(button.dataset.lab)});
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      root.scrollIntoView({block: "start", behavior: calm ? "auto" : "smooth"});
    });
  }
}

/** Where things stand, for style sheets and tests: what is shown, of which picture, after how many steps. */
function report(root, {trouble, training, seen, answered}) {
  root.dataset.answered = answered;
  root.dataset.step = seen?.losses.length ?? 0;
  root.dataset.state = trouble ? "error" : training ? "training" : seen?.complete ? "complete" : "busy";
}

function swatch(kind, colour) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({width: 22, height: 10, "aria-hidden": "true"})) node.setAttribute(name, value);
  node.innerHTML = kind === "dots" ? stroke("M4 5h0M11 5h0M18 5h0", colour, 4.5, ROUND)
    : stroke("M1 5H21", colour, 2, kind === "dashed" ? 'stroke-dasharray="5 4"' : "");
  return node;
}
