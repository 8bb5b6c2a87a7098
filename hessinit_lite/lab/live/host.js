// The computing side, in a worker where there is one, else in slices on the page; and the client that asks it.
// One request for a picture is on its way at a time and the newest one waits: a drag never starves the picture,
// since whatever has been begun shows its signal and gradient before the next is begun.

/**
 * receive(message) takes a request; answers go through `post`. Long work takes a breath every `slice` ms
 * and ends there where a newer request has come. It stands alone: a worker is made from its source.
 */
function makeHost(engine, data, post, slice) {
  const SAMPLES = 128, BATCH = 32, BINS = 40, REACH = 4;
  const all = {inputs: Float32Array.from(data.pixels, pixel => (pixel / 16 - data.mean) / data.std), labels: Array.from(data.labels)};
  const batch = {inputs: all.inputs.slice(0, 64 * SAMPLES), labels: all.labels.slice(0, SAMPLES)};
  const inputSquare = batch.inputs.reduce((sum, x) => sum + x * x, 0) / batch.inputs.length;
  const channel = new MessageChannel(), breaths = [];
  channel.port1.onmessage = () => breaths.shift()();
  let task = 0, asked = null, net = null, start = null, scales = null, trainer = null, step = 0, since = 0, ghosts = [];

  const breathe = () => new Promise(resolve => { breaths.push(resolve); channel.port2.postMessage(0); });
  const tell = message => post({...message, id: asked.id, step});

  /** A breath where it is time for one. Is this work still wanted? */
  async function wanted(mine, now = false) {
    if (now || performance.now() - since > slice) {
      await breathe();
      since = performance.now();
    }
    return mine === task;
  }

  function drawn({sizes, activation, scheme, seed, factor, biases, dropout}, old = null) {
    const same = old && old.activation === activation && String(old.sizes) === String(sizes);
    const made = same ? old : new engine.Network({sizes, activation, samples: SAMPLES, precision: "float32"});
    made.draw({scheme, seed, factor, inputs: batch.inputs});
    if (biases != null) made.biases.forEach((each, layer) => {
      const source = engine.random(seed, 5000 + layer);
      for (let i = 0; i < each.length; i++) each[i] = biases * source.normal();
    });
    return made.setDropout(dropout, seed);
  }

  async function look(request, mine) {
    [asked, trainer, step, scales] = [request, null, 0, null];
    since = performance.now();
    net = drawn(request, net);
    if (request.balanced && !await balance(mine)) return;
    start = net.parameters.slice();
    if (await measure(mine)) await drawGhosts(mine);
  }

  async function balance(mine) {
    const solver = net.hessianInitSteps({...batch, normTolerance: 1e-2});
    for (;;) {
      const {value, done} = solver.next();
      if (done) { scales = value.scales; tell({kind: "solved", converged: value.converged, steps: value.steps}); return true; }
      tell({kind: "solving", measured: value.step, worst: value.worst});
      if (!await wanted(mine, true)) return false;
    }
  }

  /** Signal and gradient at once, then the norms as they come, then the largest eigenvalue; true if it came that far. */
  async function measure(mine) {
    const {loss, signal} = net.forward(batch.inputs, batch.labels);
    const weightGradients = net.backward();
    const gradient = net.delta.map((delta, layer) => meanSquare(delta, SAMPLES * net.sizes[layer + 1]));
    tell({kind: "signal", loss, signal, gradient, weightGradients, histograms: histograms(), inputSquare, scales});
    if (!await wanted(mine, true)) return false;
    if (!Number.isFinite(loss)) { tell({kind: "lambda", lambda: NaN}); return true; }
    let norms = [];
    for (const {layer, norm} of net.norms({tolerance: 1e-2})) {
      norms.push([layer, norm]);
      if (performance.now() - since > slice || layer === 0) { tell({kind: "norms", norms}); norms = []; }
      if (!await wanted(mine)) return false;
    }
    let lambda = NaN;
    for (const found of net.topEigenvalues({which: "LA", tolerance: 1e-2, maxSteps: 40})) {
      lambda = found.value;
      if (!await wanted(mine)) return false;
    }
    tell({kind: "lambda", lambda});
    return true;
  }

  /** Pinned settings that came with a link, when there is time. */
  async function drawGhosts(mine) {
    while (ghosts.length) {
      const ghost = drawn(ghosts[0].setting);
      const {signal} = ghost.forward(batch.inputs, batch.labels), norms = [];
      ghost.backward();
      const gradient = ghost.delta.map((delta, layer) => meanSquare(delta, SAMPLES * ghost.sizes[layer + 1]));
      for (const {layer, norm} of ghost.norms({tolerance: 1e-2})) {
        norms[layer] = norm;
        if (!await wanted(mine)) return;
      }
      tell({kind: "ghost", pin: ghosts.shift().pin, signal, gradient, norms});
    }
  }

  /** Mini-batch steps up to the step `until`; every now and then all is measured, if not `quiet`. */
  async function train({rate, optimizer, until, quiet}, mine) {
    let measured = performance.now(), pause = 300;
    if (trainer?.optimizer !== optimizer)
      trainer = {optimizer, ...fresh(optimizer, rate)};
    trainer.run.rate = rate;
    while (step < until) {
      const losses = [], from = performance.now();
      do {
        losses.push(trainer.run.step());
        step++;
      } while (performance.now() - from < slice && step < until && Number.isFinite(losses[losses.length - 1]));
      tell({kind: "steps", losses});
      if (!Number.isFinite(losses[losses.length - 1])) {
        if (quiet || await measure(mine)) tell({kind: "stopped", why: "diverged"});
        return;
      }
      if (!await wanted(mine, true)) return;
      if (!quiet && performance.now() - measured > pause && step < until) {
        const from = performance.now();
        if (!await measure(mine)) return;
        measured = performance.now();
        pause = Math.max(300, 2 * (measured - from)); // measuring takes a third of the time at most
      }
    }
    if (quiet || await measure(mine)) tell({kind: "stopped", why: "done"});
  }

  const fresh = (optimizer, rate) => ({run: net.trainer({...all, optimizer, rate, batch: BATCH, seed: asked.seed})});

  function meanSquare(values, count) {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += values[i] * values[i];
    return sum / count;
  }

  /** Shares of the pre-activations by layer in bins from -REACH to REACH; the outer bins hold what lies beyond. */
  function histograms() {
    return net.u.map((u, layer) => {
      const count = SAMPLES * net.sizes[layer + 1], found = new Float32Array(BINS);
      for (let i = 0; i < count; i++) {
        const bin = Math.floor((u[i] + REACH) / (2 * REACH) * BINS);
        if (bin === bin) found[Math.max(0, Math.min(BINS - 1, bin))] += 1 / count;
      }
      return found;
    });
  }

  const handlers = {
    look,
    train,
    async pause(_, mine) { await measure(mine); },
    async back(_, mine) {
      net.parameters.set(start);
      [trainer, step] = [null, 0];
      if (await measure(mine)) await drawGhosts(mine);
    },
  };
  return message => {
    if (message.kind === "ghosts") { ghosts.push(...message.ghosts); return; }
    since = performance.now();
    handlers[message.kind](message, ++task).catch(error => tell({kind: "error", message: String(error.message || error)}));
  };
}

/** Asks a host; `hear` gets the answers that belong to the newest picture. `data`: a promise of the digits. */
function makeClient(data, hear) {
  let send = null, sent = 0, waiting = false;
  let queue = [];

  function answer(message) {
    if (message.id !== sent) return; // of a picture that is no longer wanted
    if (["signal", "solving", "error"].includes(message.kind)) waiting = false;
    hear(message);
    pump();
  }

  function pump() {
    while (send && queue.length && !(waiting && queue[0].kind === "look")) {
      const message = queue.shift();
      if (message.kind === "look") { message.id = ++sent; waiting = true; }
      send(message);
    }
  }

  function onThePage() {
    data.then(digits => {
      const receive = makeHost(HessinitEngine, digits, message => setTimeout(answer, 0, message), 8);
      send = message => setTimeout(receive, 0, message);
      pump();
    });
  }

  const source = `(${hessinitEngineSource})();
    let receive = null;
    onmessage = ({data}) => {
      if (receive) receive(data);
      else {
        receive = (${makeHost})(HessinitEngine, data, message => postMessage(message), 20);
        postMessage({kind: "ready"});
      }
    };`;
  try {
    const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const worker = new Worker(address);
    worker.onmessage = event => {
      if (event.data.kind !== "ready") { answer(event.data); return; }
      URL.revokeObjectURL(address);
      send = message => worker.postMessage(message);
      pump();
    };
    worker.onerror = event => {
      event.preventDefault();
      worker.terminate();
      if (!send) onThePage(); // a page may forbid workers: then it computes itself
      else hear({kind: "error", id: sent, message: event.message});
    };
    data.then(digits => worker.postMessage(digits));
  } catch {
    onThePage();
  }

  return {
    look(setting) {
      queue = queue.filter(message => message.kind === "ghosts"); // all else was about an older setting
      queue.push({...setting, kind: "look"});
      pump();
    },
    tell(message) { queue.push(message); pump(); },
  };
}
