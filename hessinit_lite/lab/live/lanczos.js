// Chapter 8: Lanczos product by product, on the stored eigenvalues of the chapter's Hessians. In the basis of its
// eigenvectors a Hessian is diagonal, and a random start is as random there as anywhere: nothing else is needed.

const MOST_PRODUCTS = 24;

async function lanczosView(root, stored, setting) {
  const spectra = await stored, products = Array.from({length: MOST_PRODUCTS}, (_, k) => k + 1);
  let net = 0, {seed} = setting, steps = 6, found = [];
  const panel = new Panel({
    title: "Ritz values", note: "lines: the true eigenvalues; bars: the bounds", height: 320,
    x: {from: 0, to: MOST_PRODUCTS + 1, ticks: [1, 6, 12, 18, 24], label: "products"}, y: {from: -18, to: 18, ticks: [-15, -10, -5, 0, 5, 10, 15]},
  });
  const errors = new Panel({
    title: "The largest in magnitude", note: "its distance from an eigenvalue; dashed: the bound", height: 320,
    x: {from: 0, to: MOST_PRODUCTS + 1, ticks: [1, 6, 12, 18, 24], label: "products"}, y: {from: 1e-15, to: 100, log: true, ticks: decades(-15, 0, 3)},
  });
  const knob = makeSlider({name: "products", label: "products", ...wholeNumbers(1, MOST_PRODUCTS), text: String, change: value => { steps = value; show(); }});
  const menu = makeMenu({name: "net", label: "Hessian", options: Object.fromEntries(spectra.map((_, k) => [k, `of seed ${k}`])), change: value => { net = Number(value); begin(); }});
  const more = makeButton("One product more", () => { steps = Math.min(MOST_PRODUCTS, steps + 1); show(); }, {kind: "lab-go"});
  const again = makeButton("Draw again", () => { seed = seed % 9999 + 1; begin(); }, {title: "another random start"});
  const view = new View(root, {knobs: [menu, knob], buttons: [more, again], panels: [panel, errors]});

  /** All the products of a start at once; the knob says how many of them are shown. */
  function begin() {
    const values = spectra[net], source = HessinitEngine.random(seed, 6000);
    const {diagonal, beside} = tridiagonal(values, values.map(() => source.normal()), MOST_PRODUCTS);
    found = products.map(count => {
      const {ritz, lasts} = eigenOfTridiagonal(diagonal.slice(0, count), beside.slice(0, count - 1));
      const bounds = lasts.map(entry => beside[count - 1] * Math.abs(entry));
      const top = ritz.reduce((best, value, k) => Math.abs(value) > Math.abs(ritz[best]) ? k : best, 0);
      return {ritz, bounds, top, error: Math.min(...values.map(value => Math.abs(value - ritz[top])))};
    });
    Object.assign(found, {diagonal, beside});
    show();
  }

  function show() {
    const values = spectra[net], {ritz, bounds, top, error} = found[steps - 1], seen = found.slice(0, steps);
    const lines = {x: [], y: []}, bars = {x: [], y: []};
    for (const value of values) { lines.x.push(0, MOST_PRODUCTS + 1, NaN); lines.y.push(value, value, NaN); }
    ritz.forEach((value, k) => { bars.x.push(steps, steps, NaN); bars.y.push(value - bounds[k], value + bounds[k], NaN); });
    menu.show(net);
    knob.show(steps);
    more.disabled = steps === MOST_PRODUCTS;
    panel.show({
      curves: [{...lines, colour: "currentColor", line: 1.2, pale: true},
        {x: seen.flatMap((each, k) => each.ritz.map(() => k + 1)), y: seen.flatMap(each => each.ritz), colour: COLOURS.sky, dots: 4},
        {...bars, colour: COLOURS.orange, line: 2}, {x: ritz.map(() => steps), y: ritz, colour: COLOURS.blue, dots: 6}],
      alt: `Ritz values after ${steps} products, from ${inWords(Math.min(...ritz), 3)} to ${inWords(Math.max(...ritz), 3)}; eigenvalues from ${inWords(values[0], 3)} to ${inWords(last(values), 3)}`,
    });
    const x = products.slice(0, steps);
    errors.show({
      curves: [{x, y: seen.map(each => each.bounds[each.top]), colour: COLOURS.orange, line: 2, dots: 4, dashed: true},
        {x, y: seen.map(each => Math.max(1e-16, each.error)), colour: COLOURS.blue, line: 2, dots: 5}],
      alt: `Distance ${inWords(error)} and bound ${inWords(bounds[top])} after ${steps} products`,
    });
    const close = bounds.filter(bound => bound < 0.1).length;
    view.say(`After ${steps} ${steps === 1 ? "product" : "products"}, start ${seed}: the Ritz value of largest magnitude is ${inWords(ritz[top], 4)}; some eigenvalue is within ${inWords(bounds[top])} of it, says the bound, `
      + `and the nearest is ${inWords(error)} away. ${close} of ${steps} bounds ${close === 1 ? "is" : "are"} below 0.1.`,
    {net, seed, steps, ritz, bounds, top, error, diagonal: found.diagonal, beside: found.beside});
  }

  begin();
  return {show};
}

/** T of so many steps of Lanczos on a diagonal matrix: {diagonal, beside}, the last of `beside` the next step's. */
function tridiagonal(values, start, steps) {
  const inner = (a, b) => { let total = 0; for (let i = 0; i < a.length; i++) total += a[i] * b[i]; return total; };
  const times = (a, factor) => a.map(each => each * factor);
  const basis = [times(start, 1 / Math.sqrt(inner(start, start)))], diagonal = [], beside = [];
  for (let m = 0; m < steps; m++) {
    const next = basis[m].map((each, i) => each * values[i]);
    diagonal.push(inner(next, basis[m]));
    for (const q of [...basis, ...basis]) { // orthogonal to all vectors so far, twice
      const share = inner(q, next);
      for (let i = 0; i < next.length; i++) next[i] -= share * q[i];
    }
    beside.push(Math.sqrt(inner(next, next)));
    basis.push(times(next, 1 / beside[m]));
  }
  return {diagonal, beside};
}

/** Eigenvalues of a symmetric tridiagonal matrix and the last entries of their eigenvectors, by Jacobi's rotations. */
function eigenOfTridiagonal(diagonal, beside) {
  const n = diagonal.length, rows = diagonal.map((value, i) => diagonal.map((_, j) => i === j ? value : Math.abs(i - j) === 1 ? beside[Math.min(i, j)] : 0));
  const lasts = diagonal.map((_, i) => i === n - 1 ? 1 : 0), size = Math.max(...diagonal.map(Math.abs), ...beside);
  for (let sweep = 0, turned = true; turned && sweep < 30; sweep++) {
    turned = false;
    for (let i = 0; i < n; i++)
      for (let j = i + 1; j < n; j++) {
        if (!(Math.abs(rows[i][j]) > 1e-17 * size)) continue;
        turned = true;
        const zeta = (rows[j][j] - rows[i][i]) / (2 * rows[i][j]), t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, t), sine = cosine * t, turn = (a, b) => [cosine * a - sine * b, sine * a + cosine * b];
        for (let k = 0; k < n; k++) [rows[k][i], rows[k][j]] = turn(rows[k][i], rows[k][j]);
        for (let k = 0; k < n; k++) [rows[i][k], rows[j][k]] = turn(rows[i][k], rows[j][k]);
        [lasts[i], lasts[j]] = turn(lasts[i], lasts[j]);
      }
  }
  return {ritz: rows.map((row, i) => row[i]), lasts};
}
