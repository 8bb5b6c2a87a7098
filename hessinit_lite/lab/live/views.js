// Small views for the chapters, one idea each, made of the same knobs and panels. They compute on the page:
// their networks are small, and a picture takes a few milliseconds.

const BATCH_OF_VIEWS = 128;

/** What a small view is made of: knobs in a row, panels, and a sentence that a screen reader is told. */
class View {
  constructor(root, {knobs = [], buttons = [], panels}) {
    this.root = root;
    this.says = make("p", {class: "lab-says", role: "status"});
    root.replaceChildren(make("div", {class: "lab-body"}, make("div", {class: "lab-knobs"}, knobs.map(knob => knob.node)),
      buttons.length ? make("div", {class: "lab-row"}, buttons) : "", make("div", {class: "lab-panels"}, panels.map(panel => panel.node)),
      this.says));
    this.answered = 0;
  }

  /** The sentence, and the numbers behind the picture. */
  say(text, seen) {
    this.root.seen = seen;
    if (this.says.textContent !== text) this.says.textContent = text;
    this.root.dataset.answered = ++this.answered; // what a test can wait for
  }
}

/** A network of a setting with its full batch: {net, inputs, labels, look(), draw(seed)}. */
async function netOfView(data, {activation, scheme, factor, width, depth, seed}, bias) {
  const digits = await data, sizes = sizesOf({depth, width});
  const inputs = Float32Array.from(digits.pixels.slice(0, 64 * BATCH_OF_VIEWS), pixel => (pixel / 16 - digits.mean) / digits.std);
  const labels = Array.from(digits.labels.slice(0, BATCH_OF_VIEWS));
  const net = new HessinitEngine.Network({sizes, activation, bias, samples: BATCH_OF_VIEWS, precision: "float32"});
  const draw = seed => net.draw({scheme, factor, seed, inputs});
  draw(seed);
  return {net, inputs, labels, draw, forward: () => net.forward(inputs, labels)};
}

const finished = generator => { for (;;) { const {value, done} = generator.next(); if (done) return value; } };
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// ---- Chapters 1 and 2: σ, a new draw, and the line that theory predicts

function signalView(root, data, setting) {
  const bench = new Bench(data, setting), {depth} = bench.setting;
  const layers = new LayerPanels(bench, {names: ["signal", "gradient"], layers: depth, height: 180});
  const {factor, activation} = netKnobs(bench);
  const again = makeButton("Draw again", () => bench.change({seed: bench.setting.seed % 9999 + 1}));
  const view = new View(root, {knobs: [factor, activation], buttons: [again], panels: Object.values(layers.panels)});
  bench.listen(() => {
    const {seen} = bench;
    showKnobs({factor, activation}, bench);
    layers.draw(bench);
    if (!seen) return;
    const expected = theoryOf(bench), ends = values => `from ${inWords(values[0])} to ${inWords(last(values))}`;
    view.say(`σ × ${bench.setting.factor.toFixed(2)}, draw ${bench.setting.seed}: over ${depth} layers the mean square of u goes ${ends(seen.signal)}`
      + (expected ? `; for infinite width (dashed) ${ends(expected.signal)}.` : "."), {signal: Array.from(seen.signal), seed: bench.setting.seed});
  });
  return bench;
}

// ---- Chapters 10 and 11: a knob for each layer

async function layersView(root, data, setting) {
  const {depth, rate} = setting, own = await netOfView(data, setting, false), {net} = own;
  const layers = Array.from({length: depth}, (_, k) => k + 1);
  let start = net.parameters.slice(), scales = layers.map(() => 1), eta = rate, first = null, run = 0;
  const panel = new Panel({
    title: "Hessian", note: "norm of each layer’s block; dashed: what the scaling law says", height: 210,
    x: {from: 0.5, to: depth + 0.5, ticks: layers, label: "layer"}, y: {from: 1e-4, to: 1e4, log: true, ticks: decades(-4, 4, 2)},
  });
  const budget = new Panel({
    title: "Budget", note: "η ‖H‖ added up layer by layer; the limit is 2", height: 210,
    x: {from: 0.5, to: depth + 0.5, ticks: layers, label: "layer"}, y: {from: 0, to: 4, ticks: [0, 1, 2, 3, 4]},
  });
  const knobs = layers.map((layer, k) => makeSlider({
    name: `layer-${layer}`, label: `s of layer ${layer}`, ...logarithmic(0.2, 5, 120), text: value => `× ${value.toFixed(2)}`,
    change: value => { run++; scales[k] = value; look(); }, reset: () => { run++; scales[k] = 1; look(); },
  }));
  const rateKnob = makeSlider({
    name: "rate", label: "learning rate η", ...logarithmic(1e-3, 1, 120), change: value => { eta = value; look(); },
  });
  const buttons = [
    makeButton("Solve: every norm at 1", solve, {kind: "lab-go"}),
    makeButton("All s at 1", () => { run++; scales = layers.map(() => 1); look(); }),
    makeButton("Draw again", () => { run++; setting.seed++; own.draw(setting.seed); start = net.parameters.slice(); first = null; look(); }),
  ];
  const view = new View(root, {knobs: [...knobs, rateKnob], buttons, panels: [panel, budget]});

  /** The weights times the knobs: new norms. */
  function look() {
    if (!first) first = normsAt(layers.map(() => 1));
    const {norms, loss} = normsAt(scales), all = scales.reduce((product, s) => product * s * s, 1);
    const law = first.norms.map((norm, k) => norm * all / scales[k] ** 2);
    let total = 0;
    const spent = norms.map(norm => total += eta * norm);
    knobs.forEach((knob, k) => knob.show(scales[k]));
    rateKnob.show(eta);
    const words = `norms from ${inWords(Math.min(...norms))} to ${inWords(Math.max(...norms))}, loss ${inWords(loss)}`;
    panel.show({curves: [{x: layers, y: law, colour: "currentColor", line: 1.5, dashed: true},
      {x: layers, y: norms, colour: COLOURS.blue, line: 1, dots: 8}], levels: [{y: 1}], alt: `Hessian by layer: ${words}`});
    budget.show({curves: [{x: layers, y: spent, colour: total < 2 ? COLOURS.green : COLOURS.orange, line: 1.5, dots: 7, beyond: true}],
      levels: [{y: 2, text: "2"}], alt: `Budget: ${inWords(total)}`});
    view.say(`The ${words}. The budget η Σ‖H‖ is ${inWords(total)}: ${total < 2 ? "below 2, a step is stable on the quadratic"
      : "above 2, and nothing promises a stable step"}; it allows η up to ${inWords(2 * eta / total)}.`, {norms, law, scales, budget: total, eta});
  }

  function normsAt(factors) {
    net.parameters.set(start);
    net.weights.forEach((weight, k) => { for (let i = 0; i < weight.length; i++) weight[i] *= factors[k]; });
    const {loss} = own.forward(), norms = [];
    for (const {layer, norm} of net.norms({tolerance: 3e-3})) norms[layer] = norm;
    return {norms, loss};
  }

  /** Newton's steps, one after the other, slow enough to be seen. */
  async function solve() {
    const mine = ++run, from = [...scales];
    normsAt(from);
    const found = [...net.hessianInitSteps({inputs: own.inputs, labels: own.labels, normTolerance: 3e-3})];
    for (const each of found) {
      if (mine !== run) return;
      scales = each.scales.map((s, k) => s * from[k]);
      look();
      if (!still()) await new Promise(resolve => setTimeout(resolve, 350));
    }
  }

  look();
  return {look};
}

// ---- Chapter 17: the rate against 2/λ, while training

async function rateView(root, data, setting) {
  const own = await netOfView(data, setting, true), {net, inputs, labels} = own, start = net.parameters.slice();
  let eta = setting.rate, trainer, losses, lambdas, running = false, over = "";
  const steps = {from: 0, to: 400, ticks: [0, 100, 200, 300, 400], label: "step"};
  const loss = new Panel({title: "Loss", note: "of the whole batch", height: 200, x: steps, y: {from: 0, to: 3, ticks: [0, 1, 2, 3]}});
  const sharpness = new Panel({
    title: "Sharpness", note: "λ, largest eigenvalue of the Hessian", height: 200, x: steps,
    y: {from: 0.1, to: 1000, log: true, ticks: decades(-1, 3, 1)},
  });
  const knob = makeSlider({name: "rate", label: "learning rate η", ...logarithmic(1e-3, 10, 200), change: value => { eta = value; show(); }});
  const go = makeButton("Train", () => { running = !running; show(); if (running) requestAnimationFrame(frame); }, {kind: "lab-go"});
  const at = factor => makeButton(`η = ${factor}/λ`, () => { eta = Number((factor / last(lambdas)[1]).toPrecision(3)); show(); }, {kind: "lab-small"});
  const back = makeButton("Back to the same weights", () => { begin(); show(); });
  const view = new View(root, {knobs: [knob], buttons: [go, back, at(1), at(1.9), at(2.5)], panels: [loss, sharpness]});

  function begin() {
    net.parameters.set(start);
    [losses, lambdas, running, over] = [[], [], false, ""];
    trainer = net.trainer({inputs, labels, rate: eta, batch: labels.length});
    measure();
  }

  /** The sharpness where the weights are now. */
  function measure() {
    own.forward();
    net.backward();
    lambdas.push([losses.length, net.topEigenvalue({which: "LA", tolerance: 1e-2, maxSteps: 60}).value]);
  }

  function frame() {
    if (!running || !root.isConnected) return;
    trainer.rate = eta;
    for (const from = performance.now(); performance.now() - from < 8 && running;) {
      losses.push(trainer.step());
      const now = last(losses);
      if (!(now < 1e4)) [running, over] = [false, "It has diverged."];
      else if (losses.length >= 1600) [running, over] = [false, "Enough."];
      else if (losses.length % 5 === 0) measure();
    }
    show();
    requestAnimationFrame(frame);
  }

  function show() {
    while (steps.to < losses.length) { steps.to *= 2; steps.ticks = [0, 1, 2, 3, 4].map(k => k * steps.to / 4); }
    if (!losses.length) { steps.to = 400; steps.ticks = [0, 100, 200, 300, 400]; }
    knob.show(eta);
    go.textContent = running ? "Pause" : losses.length ? "Train on" : "Train";
    go.disabled = over !== "";
    const lambda = last(lambdas)[1];
    loss.show({curves: [{x: losses.map((_, k) => k), y: losses, colour: COLOURS.blue, line: 2}], levels: [],
      alt: losses.length ? `Loss after ${losses.length} steps: ${inWords(last(losses))}` : "Loss: nothing trained yet"});
    sharpness.show({curves: [{...pairs(lambdas), colour: COLOURS.blue, line: 1.5, dots: 4}],
      levels: [{y: 2 / eta, text: `2/η = ${inWords(2 / eta)}`, colour: COLOURS.orange}], alt: `Sharpness ${inWords(lambda)}, limit 2/η ${inWords(2 / eta)}`});
    const seen = {losses, lambdas, eta, running, over};
    root.seen = seen;
    if (!running) view.say(`After ${losses.length} steps λ = ${inWords(lambda, 3)}; η = ${inWords(eta, 3)} is ${inWords(eta * lambda / 2)} of the limit 2/λ`
      + (losses.length ? `, and the loss is ${inWords(last(losses))}. ${over}` : "."), seen);
  }

  begin();
  show();
  return {show};
}

// ---- Chapter 4: a point in the plane of (σ_w, σ_b)

function planeView(root, data, setting) {
  const engine = HessinitEngine, point = {w: 1.5, b: 0.3}, {activation} = setting;
  const unit = {from: 0, to: 1, ticks: [0, 0.5, 1]};
  const plane = new Panel({
    title: "The plane", note: "drag the point; dashed: the edge of chaos", height: 230,
    x: {from: 0.5, to: 3, ticks: [0.5, 1, 1.5, 2, 2.5, 3], label: "σ_w"}, y: {from: 0, to: 1, ticks: [0, 0.5, 1]},
  });
  const q = new Panel({title: "Variance", note: "q one layer on, and a way through the layers", height: 230, x: {...unit, to: 3, ticks: [0, 1, 2, 3], label: "q"}, y: {from: 0, to: 3, ticks: [0, 1, 2, 3]}});
  const c = new Panel({title: "Correlation", note: "c one layer on, and a way through the layers", height: 230, x: {...unit, label: "c"}, y: unit});
  const circle = new Panel({
    title: "A circle of inputs", note: "two units of a layer, over the root of its mean square", height: 230,
    x: {from: -2.5, to: 2.5, ticks: [-2, 0, 2], label: "unit 1"}, y: {from: -2.5, to: 2.5, ticks: [-2, 0, 2]},
  });
  const inputs = new Circle({activation}), layerKnob = makeSlider({
    name: "layer", label: "layer of the circle", ...wholeNumbers(1, 15), text: String, change: value => { layers = value; show(); },
  });
  const again = makeButton("Draw again", () => { seed = seed % 9999 + 1; show(); }, {title: "another net for the circle"});
  let layers = 6, {seed} = setting;
  const knobs = [["w", "σ_w", 0.5, 3, 250], ["b", "σ_b", 0, 1, 100]].map(([name, label, low, high, count]) => makeSlider({
    name, label, ...even(low, high, count), text: value => value.toFixed(2), change: value => { point[name] = value; show(); },
  }));
  const view = new View(root, {knobs: [...knobs, layerKnob], buttons: [again], panels: [plane, circle, q, c]});
  const edge = {x: [], y: []};
  for (let k = 1; k <= 200; k++) { // χ = 1 and a level variance, see hl.edge_of_chaos
    const variance = 0.0004 * k * k, [forward, backward] = engine.secondMoments(activation, variance);
    const bias = variance - forward / backward;
    if (bias >= 0) { edge.x.push(Math.sqrt(1 / backward)); edge.y.push(Math.sqrt(bias)); }
  }
  const drag = event => {
    if (event.type === "pointermove" && !event.buttons) return;
    if (event.type === "pointerdown") plane.svg.setPointerCapture(event.pointerId);
    const at = plane.where(event), within = (value, low, high) => Math.min(high, Math.max(low, value));
    [point.w, point.b] = [within(at.x, 0.5, 3), within(at.y, 0, 1)];
    show();
  };
  plane.svg.style.touchAction = "none";
  plane.svg.style.cursor = "pointer";
  plane.svg.addEventListener("pointerdown", drag);
  plane.svg.addEventListener("pointermove", drag);

  /** A staircase from `from` under a map, and where it ends. */
  function staircase(map, from, layers) {
    const x = [from], y = [0];
    let at = from;
    for (let k = 0; k < layers; k++) { const next = map(at); x.push(at, next); y.push(next, next); at = next; }
    return {x, y};
  }

  const grid = (from, to, count) => Array.from({length: count + 1}, (_, k) => from + (to - from) * k / count);

  function show() {
    const w = point.w ** 2, b = point.b ** 2, square = {x: [0, 3], y: [0, 3], colour: "currentColor", line: 1};
    const ahead = variance => w * (variance > 1e-12 ? engine.secondMoments(activation, variance)[0] : 0) + b;
    let star = 1, before = 0;
    for (let k = 0; k < 2000 && Math.abs(star - before) > 1e-10 * star && star > 1e-9 && star < 1e6; k++) [star, before] = [ahead(star), star];
    const settled = star > 1e-9 && star < 1e6, variance = settled ? star : Math.max(1e-9, Math.min(1e6, star));
    const chi = w * engine.secondMoments(activation, variance)[1];
    const corr = at => engine.correlationMap(activation, Math.min(1, at), variance, w, b);
    let low = 0, high = 1, end = 1;
    if (chi > 1 + 1e-6) { // the other fixed point, below 1
      for (let k = 0; k < 24; k++) { end = (low + high) / 2; if (corr(end) > end) low = end; else high = end; }
    }
    const slope = w * engine.crossMoments(activation, end, variance)[1], depth = -1 / Math.log(slope);
    knobs[0].show(point.w);
    knobs[1].show(point.b);
    const colour = chi > 1 ? COLOURS.orange : COLOURS.blue, phase = Math.abs(chi - 1) < 0.01 ? "on the edge" : chi > 1 ? "chaotic" : "ordered";
    plane.show({curves: [{...edge, colour: "currentColor", line: 1.5, dashed: true}, {x: [point.w], y: [point.b], colour, dots: 14}],
      alt: `σ_w ${point.w.toFixed(2)}, σ_b ${point.b.toFixed(2)}: ${phase}`});
    const qs = grid(0.001, 3, 40), cs = grid(0, 1, 40);
    q.show({curves: [square, {x: qs, y: qs.map(ahead), colour, line: 2}, {...staircase(ahead, 2.5, 14), colour: COLOURS.green, line: 1}],
      alt: `The variance settles at ${inWords(star)}`});
    c.show({curves: [square, {x: cs, y: cs.map(corr), colour, line: 2}, {...staircase(corr, 0.2, 14), colour: COLOURS.green, line: 1}],
      alt: `Correlations tend to ${inWords(end, 3)}`});
    // The first layer's q is q*, where there is one; a quarter turn apart, inputs have nothing in common.
    const moment = settled ? Math.max(0, variance - b) / w : 1, carried = inputs.through({...point, layers, seed, square: moment});
    let expected = b / (w * moment + b);
    for (let layer = 1; layer < layers; layer++) expected = corr(expected);
    layerKnob.show(layers);
    circle.show({curves: [{x: carried.x, y: carried.y, colour, line: 1.5}, {x: carried.x.slice(0, 1), y: carried.y.slice(0, 1), colour, dots: 8}],
      alt: `The circle in layer ${layers}: points a quarter turn apart have the correlation ${inWords(carried.correlation)}`});
    view.say(`${phase[0].toUpperCase()}${phase.slice(1)}: χ = ${inWords(chi, 3)}. `
      + (settled ? `The variance settles at q* = ${inWords(star, 3)}, any two inputs at correlation c* = ${inWords(end, 3)}, and ξ = ${slope < 1 ? inWords(depth, 3) : "∞"} layers is the scale on which they do.`
        : `The variance ${star < 1 ? "dies out" : "grows beyond all bounds"}.`)
      + ` In layer ${layers} points of the circle that were a quarter turn apart have the correlation ${inWords(carried.correlation)}${settled ? ` (for infinite width ${inWords(expected)})` : ""}.`,
    {...point, chi, settled, variance: star, correlation: end, depth, layers, seed, circle: carried, expected});
  }

  show();
  return {show};
}

// ---- Chapter 3: the variance map and the gain

function mapView(root, data, setting) {
  const engine = HessinitEngine, layers = Array.from({length: 30}, (_, k) => k + 1);
  let {activation} = setting, g = engine.gain(activation), start = 2;
  const map = new Panel({
    title: "Variance map", note: "q one layer on, and a way through the layers", height: 220,
    x: {from: 0, to: 4, ticks: [0, 1, 2, 3, 4], label: "q"}, y: {from: 0, to: 4, ticks: [0, 1, 2, 3, 4]},
  });
  const profile = new Panel({
    title: "Variance by layer", note: "of the pre-activations, for infinite width", height: 220,
    x: {from: 0.5, to: 30.5, ticks: [1, 10, 20, 30], label: "layer"}, y: {from: 1e-4, to: 1e4, log: true, ticks: decades(-4, 4, 2)},
  });
  const menu = makeMenu({name: "activation", label: "activation", options: ACTIVATIONS, change: name => { activation = name; toGain(); }});
  const gain = makeSlider({name: "gain", label: "gain g", ...even(0.2, 4, 380), text: value => value.toFixed(2), change: value => { g = value; show(); }});
  const from = makeSlider({name: "start", label: "q of the first layer", ...even(0.1, 4, 39), change: value => { start = value; show(); }});
  const view = new View(root, {knobs: [menu, gain, from], buttons: [makeButton("g of the activation", toGain)], panels: [map, profile]});

  function toGain() { g = Number(engine.gain(activation).toFixed(2)); show(); }

  function show() {
    const ahead = variance => g * g * moments(engine, activation, variance)[0], values = [start];
    while (values.length < 30) values.push(ahead(last(values)));
    const qs = Array.from({length: 61}, (_, k) => Math.max(1e-6, k / 15)), way = {x: [start], y: [0]};
    for (let k = 1; k < 30; k++) { way.x.push(values[k - 1], values[k]); way.y.push(values[k], values[k]); }
    menu.show(activation);
    gain.show(g);
    from.show(start);
    map.show({curves: [{x: [0, 4], y: [0, 4], colour: "currentColor", line: 1}, {x: qs, y: qs.map(ahead), colour: COLOURS.blue, line: 2},
      {...way, colour: COLOURS.green, line: 1}], alt: `From ${inWords(start)} the variance goes to ${inWords(values[1])} one layer on`});
    profile.show({curves: [{x: layers, y: values, colour: COLOURS.blue, line: 1, dots: 5}], levels: [{y: 1}],
      alt: `Variance ${inWords(values[0])} at layer 1 and ${inWords(last(values))} at layer 30`});
    const own = engine.gain(activation);
    view.say(`g = ${g.toFixed(2)} (the forward gain of ${ACTIVATIONS[activation]} at q = 1 is ${own.toFixed(2)}): `
      + `the variance goes from ${inWords(values[0])} at layer 1 to ${inWords(last(values))} at layer 30.`, {values, g, start, activation});
  }

  toGain();
  return {show};
}

// ---- Chapter 5: singular values through the layers

async function singularView(root, data, setting) {
  const {depth, width} = setting, own = await netOfView(data, setting, false), {net} = own;
  let {scheme, factor} = setting, seed = setting.seed;
  const panel = new Panel({
    title: "Singular values", note: "of the Jacobian from layer 1 to each layer, for one digit; line: their median", height: 240,
    x: {from: 0.5, to: depth + 0.5, ticks: [1, ...decades(1, 1, 1).flatMap(() => [1, 2, 3, 4, 5, 6].map(k => 10 * k))].filter(k => k <= depth), label: "layer"},
    y: {from: 1e-9, to: 1e3, log: true, ticks: decades(-9, 3, 3)},
  });
  const menu = makeMenu({name: "scheme", label: "scheme", options: SCHEMES, change: name => { scheme = name; show(); }});
  const knob = makeSlider({name: "factor", label: "σ of weights", ...logarithmic(0.25, 4, 96), text: value => `× ${value.toFixed(2)}`, change: value => { factor = value; show(); }});
  const again = makeButton("Draw again", () => { seed = seed % 9999 + 1; show(); });
  const view = new View(root, {knobs: [menu, knob], buttons: [again], panels: [panel]});

  function show() {
    menu.show(scheme);
    knob.show(factor);
    net.draw({scheme, factor, seed, inputs: own.inputs});
    own.forward();
    const x = [], y = [], medians = [];
    let product = null;
    for (let l = 1; l < depth - 1; l++) {
      product = timesLayer(net.weights[l], net.slope[l], product, width);
      const values = singularValues(product, width);
      medians.push(values[width >> 1]);
      for (const value of values) { x.push(l + 1); y.push(value); }
    }
    const ends = y.slice(-width), most = ends[0], least = ends[width - 1];
    panel.show({curves: [{x, y, colour: COLOURS.blue, dots: 3},
      {x: medians.map((_, k) => k + 2), y: medians, colour: COLOURS.orange, line: 2}], levels: [{y: 1}],
    alt: `Singular values at layer ${depth - 1}: from ${inWords(least)} to ${inWords(most)}`});
    view.say(`${SCHEMES[scheme]}, σ × ${factor.toFixed(2)}: at layer ${depth - 1} the singular values go from `
      + `${least < 1e-13 * most ? "next to nothing" : inWords(least)} to ${inWords(most)}, the median is ${inWords(last(medians))}.`, {x, y, medians});
  }

  show();
  return {show};
}

/** diag(slopes) · weight · product, for the first sample; a product of null is the identity. Square, row after row. */
function timesLayer(weight, slopes, product, size) {
  const result = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let k = 0; k < size; k++) {
      const factor = slopes[i] * weight[i * size + k];
      if (!product) result[i * size + k] = factor;
      else for (let j = 0; j < size; j++) result[i * size + j] += factor * product[k * size + j];
    }
  return result;
}

/** The singular values of a square matrix, largest first: Jacobi's rotations make its rows orthogonal. */
function singularValues(matrix, size) {
  const rows = Array.from({length: size}, (_, i) => matrix.slice(i * size, (i + 1) * size));
  const inner = (a, b) => { let total = 0; for (let k = 0; k < size; k++) total += a[k] * b[k]; return total; };
  for (let sweep = 0, turned = true; turned && sweep < 12; sweep++) {
    turned = false;
    for (let i = 0; i < size; i++)
      for (let j = i + 1; j < size; j++) {
        const a = inner(rows[i], rows[i]), b = inner(rows[j], rows[j]), c = inner(rows[i], rows[j]);
        if (!(Math.abs(c) > 1e-9 * Math.sqrt(a * b))) continue;
        turned = true;
        const zeta = (b - a) / (2 * c), t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, t), sine = cosine * t;
        for (let k = 0; k < size; k++) {
          const x = rows[i][k], y = rows[j][k];
          rows[i][k] = cosine * x - sine * y;
          rows[j][k] = sine * x + cosine * y;
        }
      }
  }
  return rows.map(row => Math.sqrt(inner(row, row))).sort((a, b) => b - a);
}
