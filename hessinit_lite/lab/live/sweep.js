// Chapter 11: every layer at a target, trained at a rate. Stored numbers (lab/experiments/sweep.py), so that
// hundreds of trainings can be looked at; the line is where the largest eigenvalue λ times the rate is 2.

const GUESSING = Math.log(10);

async function sweepView(root, stored) {
  const {targets, rates, every, curvature, losses} = await stored;
  const between = (values, k) => k < 0 ? values[0] * Math.sqrt(values[0] / values[1])
    : k >= values.length - 1 ? last(values) * Math.sqrt(last(values) / values[values.length - 2]) : Math.sqrt(values[k] * values[k + 1]);
  const axis = values => ({from: between(values, -1), to: between(values, values.length), log: true});
  const found = losses.map(column => column.map(runs => middle(runs.map(run => last(run) ?? Infinity))));
  let [i, j] = [targets.indexOf(1), rates.indexOf(0.1)];

  const map = new Panel({
    title: "Loss after training", note: "median of the nets by target (across) and rate η (up), ∞ for overflow; line: ηλ = 2", height: 330,
    x: {...axis(targets), ticks: targets.filter((_, k) => k % 2 === 0), label: "target of every layer’s norm"},
    y: {...axis(rates), plain: true, ticks: rates.filter((_, k) => k % 2 === 0)},
  });
  const curves = new Panel({
    title: "Loss", note: "of the whole batch, a line for each net", height: 330,
    x: {from: 0, to: every * (losses[0][0][0].length - 1), ticks: [0, 25, 50, 75, 100], label: "step"},
    y: {from: 0.01, to: 100, log: true, ticks: decades(-2, 2, 1)},
  });
  const place = values => ({count: values.length - 1, toValue: k => values[k], toPlace: value => values.indexOf(value)});
  const knobs = [
    makeSlider({name: "target", label: "target", ...place(targets), text: String, change: value => { i = targets.indexOf(value); show(); }}),
    makeSlider({name: "rate", label: "learning rate η", ...place(rates), text: String, change: value => { j = rates.indexOf(value); show(); }}),
  ];
  const view = new View(root, {knobs, panels: [map, curves]});
  view.says.after(tableOfFields());

  const nearest = (values, at) => values.reduce((best, value, k) => Math.abs(Math.log(value / at)) < Math.abs(Math.log(values[best] / at)) ? k : best, 0);
  const pick = event => {
    const at = map.where(event), before = [i, j];
    [i, j] = [nearest(targets, at.x), nearest(rates, at.y)];
    if (i !== before[0] || j !== before[1]) show();
  };
  map.svg.style.cursor = "pointer";
  map.svg.addEventListener("pointermove", pick);
  map.svg.addEventListener("pointerdown", pick);

  /** The numbers of the map, for those who cannot see it. */
  function tableOfFields() {
    const cell = (tag, text, scope) => make(tag, {scope}, text);
    const rows = [...rates].reverse().map(rate => make("tr", {}, cell("th", `η = ${rate}`, "row"),
      targets.map((_, k) => cell("td", inShape(found[k][rates.indexOf(rate)])))));
    const table = make("table", {class: "lab-table"}, make("caption", {}, "Median loss after training, by learning rate and target."),
      make("thead", {}, make("tr", {}, ["", ...targets.map(target => `target ${target}`)].map((text, k) => k ? cell("th", text, "col") : cell("td", text)))),
      make("tbody", {}, rows,
        make("tr", {}, cell("th", "2/λ", "row"), curvature.map(lambda => cell("td", inWords(2 / lambda))))));
    return make("details", {}, make("summary", {}, "The numbers as a table"),
      make("div", {class: "lab-scroll", tabindex: "0", role: "region", "aria-label": "losses by target and rate"}, table));
  }

  function show() {
    const runs = losses[i][j], lambda = curvature[i], product = rates[j] * lambda;
    const lost = runs.filter(run => last(run) == null).length, ends = runs.map(run => last(run) ?? Infinity);
    knobs[0].show(targets[i]);
    knobs[1].show(rates[j]);
    map.show({
      fields: targets.flatMap((_, k) => rates.map((_, l) => ({
        from: {x: between(targets, k - 1), y: between(rates, l - 1)}, to: {x: between(targets, k), y: between(rates, l)},
        fill: shade(found[k][l]), text: inShape(found[k][l]), chosen: k === i && l === j,
      }))),
      curves: [{x: targets, y: curvature.map(each => 2 / each), colour: COLOURS.purple, line: 2}],
      alt: `Map of ${targets.length} targets and ${rates.length} learning rates; chosen: target ${targets[i]}, rate ${rates[j]}, loss ${inShape(found[i][j])}`,
    });
    const steps = runs[0].map((_, k) => every * k);
    curves.show({
      curves: runs.map(run => ({x: steps, y: run.map(loss => loss ?? NaN), colour: COLOURS.blue, line: 1.5})),
      levels: [{y: GUESSING, text: "guessing: log 10"}], alt: `Loss curves of ${runs.length} nets, ${lost} of which overflow`,
    });
    const side = product < 2 ? "below" : "above";
    view.say(`Every layer at ${targets[i]}: λ = ${inWords(lambda)}, so η = ${rates[j]} is ${inWords(product / 2)} of 2/λ, ${side} the line. `
      + `${lost ? `${lost} of ${runs.length} nets overflow. ` : ""}The median loss after ${last(steps)} steps is ${inShape(middle(ends))}, the lowest ${inShape(Math.min(...ends))}.`,
    {target: targets[i], rate: rates[j], lambda, product, runs, lost, median: Number.isFinite(found[i][j]) ? found[i][j] : null});
  }

  show();
  return {show};
}

const middle = values => [...values].sort((a, b) => a - b)[values.length >> 1];
const inShape = loss => Number.isFinite(loss) ? loss >= 100 ? "> 100" : loss.toPrecision(2) : "∞";

/** Blue below guessing, the deeper the lower the loss; orange above it and where it has overflowed. */
const shade = loss => loss < GUESSING ? `color-mix(in srgb, #0072B2 ${Math.round(60 * (1 - loss / GUESSING))}%, transparent)`
  : `color-mix(in srgb, #D55E00 ${loss < 3 ? 18 : 45}%, transparent)`;
