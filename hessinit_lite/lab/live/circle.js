// Chapter 4: a circle of inputs carried through random layers. In the ordered phase it shrinks to a point, since all
// inputs become alike; in the chaotic one it tangles, since any two of them part.

/**
 * Points round a circle in as many dimensions as layers are wide. through({w, b, layers, seed, square}) carries them,
 * scaled to the mean square `square`, through layers with weights of variance w²/width and biases of variance b², and
 * returns {x, y, correlation}: two units of the last layer over the root of its mean square, all the way round, and
 * how alike points a quarter turn apart are there, on average.
 */
class Circle {
  constructor({activation, width = 128, points = 96}) {
    Object.assign(this, {activation, width, points});
    const source = HessinitEngine.random(1, 7000), normal = () => Float64Array.from({length: width}, source.normal);
    const one = normal(), other = normal(), inner = (a, b) => a.reduce((sum, each, i) => sum + each * b[i], 0);
    const share = inner(one, other) / inner(one, one);
    other.forEach((_, i) => { other[i] -= share * one[i]; }); // at right angles
    const [first, second] = [one, other].map(each => Math.sqrt(width / inner(each, each)));
    this.circle = new Float32Array(points * width); // of mean square 1
    for (let n = 0; n < points; n++) {
      const angle = 2 * Math.PI * n / points, [a, b] = [first * Math.cos(angle), second * Math.sin(angle)];
      for (let i = 0; i < width; i++) this.circle[n * width + i] = a * one[i] + b * other[i];
    }
    this.labels = new Int32Array(points);
  }

  through({w, b, layers, seed, square}) {
    const {width, points} = this, sizes = Array(layers + 1).fill(width);
    if (this.of !== layers) // one net is kept: knobs that scale its weights are dragged
      [this.net, this.of] = [new HessinitEngine.Network({sizes, activation: this.activation, samples: points, precision: "float32"}), layers];
    const {net} = this;
    net.draw({scheme: "lecun", factor: w, seed});
    net.biases.forEach((bias, layer) => {
      const source = HessinitEngine.random(seed, 8000 + layer);
      for (let i = 0; i < width; i++) bias[i] = b * source.normal();
    });
    const {signal} = net.forward(this.circle.map(each => each * Math.sqrt(square)), this.labels);
    const u = net.u[layers - 1], size = Math.sqrt(last(signal)), x = [], y = [];
    let together = 0;
    for (let n = 0; n <= points; n++) { // round to where it began
      const at = n % points * width;
      x.push(u[at] / size);
      y.push(u[at + 1] / size);
    }
    for (let n = 0; n < points; n++) {
      const at = n * width, quarter = (n + points / 4) % points * width;
      let product = 0, one = 0, other = 0;
      for (let i = 0; i < width; i++) {
        product += u[at + i] * u[quarter + i];
        one += u[at + i] ** 2;
        other += u[quarter + i] ** 2;
      }
      together += product / Math.sqrt(one * other) / points;
    }
    return {x, y, correlation: together};
  }
}
