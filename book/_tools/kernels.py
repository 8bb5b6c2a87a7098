"""Write the live engine's WebAssembly kernels, into lab/live/engine.js, as base64.

    python book/_tools/kernels.py           # --check: only say whether the engine holds them

Two functions on float32 in the module's own memory, four numbers at a time (SIMD). All arguments
are 32-bit integers, pointers and strides in bytes:

    multiply(c, a, b, rows, inner, columns, aRow, aStep, add)
    project(y, g, x, samples, rows, width)

They do what the functions of the same names in engine.js do. No compiler is needed: a module is a
list of sections, and a function's body a list of one-byte instructions (WebAssembly core
specification, section 5).
"""

import argparse
import base64
import re
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "hessinit_lite" / "lab" / "live" / "engine.js"
I32, F32, V128 = 0x7F, 0x7D, 0x7B


def number(n):
    """An unsigned integer in base 128, the low digits first (LEB128)."""
    out = []
    while True:
        n, digit = n >> 7, n & 127
        out.append(digit | (128 if n else 0))
        if not n:
            return bytes(out)


def vector(items):
    return number(len(items)) + b"".join(items)


class Body:
    """A function being written: its locals by name, and its instructions."""

    def __init__(self, parameters):
        self.parameters, self.locals, self.code = parameters, {}, b""

    def add(self, *parts):
        """Append instructions: bytes, or the name of a local, whose value is meant."""
        for part in parts:
            self.code += b"\x20" + self.at(part) if isinstance(part, str) else part
        return self

    def at(self, name, kind=I32):
        if name in self.parameters:
            return number(self.parameters.index(name))
        self.locals.setdefault(name, kind)
        return number(len(self.parameters) + list(self.locals).index(name))

    def set(self, name, *value, kind=I32):
        return self.add(*value, b"\x21" + self.at(name, kind))

    def step(self, name, *by):
        """name += by."""
        return self.set(name, name, *by, I_ADD)

    def count(self, name, limit, step, body):
        """while (name + step <= limit) { body(); name += step }."""
        self.add(b"\x02\x40\x03\x40", name, constant(step), I_ADD, limit, b"\x4a\x0d\x01")
        body()
        self.step(name, constant(step)).add(b"\x0c\x00\x0b\x0b")

    def bytes(self):
        kinds = [b"\x01" + bytes([kind]) for kind in self.locals.values()]
        body = vector(kinds) + self.code + b"\x0b"
        return number(len(body)) + body


def constant(n):
    assert 0 <= n < 64
    return b"\x41" + number(n)


def simd(op, *more):
    return b"\xfd" + number(op) + bytes(more)


I_ADD, I_MUL = b"\x6a", b"\x6c"
TIMES_4 = constant(2) + b"\x74"
# What a lane holds: (type, zero, load at an offset, store there, load one number to all, +, ×).
SCALAR = (
    F32,
    b"\x43" + bytes(4),
    lambda offset: b"\x2a\x02" + number(offset),
    lambda offset: b"\x38\x02" + number(offset),
    b"\x2a\x02\x00",
    b"\x92",
    b"\x94",
)
FOUR = (
    V128,
    simd(0x0C, *bytes(16)),
    lambda offset: simd(0x00, 2) + number(offset),
    lambda offset: simd(0x0B, 2) + number(offset),
    simd(0x09, 2, 0),
    simd(0xE4),
    simd(0xE6),
)


def block(f, lanes, vectors, rows):
    """rows × vectors entries of c in registers, summed over `inner`, at row m and column n."""
    kind, zero, load, store, spread, plus, times = lanes
    tag = "x" if kind == F32 else "v"
    sums = [[f"{tag}{r}{v}" for v in range(vectors)] for r in range(rows)]
    start_of_c = ("c", "m", "stride", I_MUL, I_ADD, "n", TIMES_4, I_ADD)
    f.add("add", b"\x04\x40").set("pc", *start_of_c)  # if (add) sums = c
    for row in sums:
        for v, name in enumerate(row):
            f.set(name, "pc", load(16 * v), kind=kind)
        f.step("pc", "stride")
    f.add(b"\x05")  # else sums = 0
    for row in sums:
        for name in row:
            f.set(name, zero, kind=kind)
    f.add(b"\x0b").set("pb", "b", "n", TIMES_4, I_ADD).set("k", "inner")
    for r in range(rows):
        before = (f"pa{r - 1}", "aRow") if r else ("a", "m", "aRow", I_MUL)
        f.set(f"pa{r}", *before, I_ADD)
    f.add(b"\x03\x40")  # do {
    for v in range(vectors):
        f.set(f"{tag}b{v}", "pb", load(16 * v), kind=kind)
    for r, row in enumerate(sums):
        f.set(f"{tag}a", f"pa{r}", spread, kind=kind).step(f"pa{r}", "aStep")
        for v, name in enumerate(row):
            f.set(name, name, f"{tag}a", f"{tag}b{v}", times, plus, kind=kind)
    f.step("pb", "stride").set("k", "k", constant(1), b"\x6b").add("k", b"\x0d\x00\x0b")  # while (--k)
    f.set("pc", *start_of_c)
    for row in sums:
        for v, name in enumerate(row):
            f.add("pc", name, store(16 * v))
        f.step("pc", "stride")


def multiply():
    f = Body(["c", "a", "b", "rows", "inner", "columns", "aRow", "aStep", "add"])
    f.set("stride", "columns", TIMES_4).set("n", constant(0))
    for lanes, vectors in [(FOUR, 2), (FOUR, 1), (SCALAR, 1)]:

        def panel(lanes=lanes, vectors=vectors):
            f.set("m", constant(0))
            for rows in (4, 1):
                f.count("m", "rows", rows, lambda rows=rows: block(f, lanes, vectors, rows))

        f.count("n", "columns", vectors * (4 if lanes is FOUR else 1), panel)
    return f


def project():
    f = Body(["y", "g", "x", "samples", "rows", "width"])

    def products(lanes, vectors, names):
        kind, _, load, _, _, plus, times = lanes
        for v, name in enumerate(names):
            f.set(name, name, "g", load(16 * v), "px", load(16 * v), times, plus, kind=kind)
        for pointer in ("g", "px"):
            f.step(pointer, constant(vectors * (16 if lanes is FOUR else 4)))

    def one():
        f.set("px", "x").set("i", constant(0)).set("s", SCALAR[1], kind=F32)
        for name in ("v0", "v1"):
            f.set(name, FOUR[1], kind=V128)
        f.count("i", "width", 8, lambda: products(FOUR, 2, ["v0", "v1"]))
        f.count("i", "width", 1, lambda: products(SCALAR, 1, ["s"]))
        f.set("v0", "v0", "v1", FOUR[5], kind=V128).add("y", "s")
        for lane in range(4):
            f.add("v0", simd(0x1F, lane), SCALAR[5])
        f.add(SCALAR[3](0)).step("y", constant(4))

    def sample():
        f.set("r", constant(0)).count("r", "rows", 1, one)
        f.set("x", "px")  # the next sample's

    f.set("n", constant(0)).count("n", "samples", 1, sample)
    return f


def module():
    """The module: memory of one page, which its user grows, and the two functions."""
    functions = {"multiply": multiply(), "project": project()}
    types = [b"\x60" + vector([bytes([I32])] * len(f.parameters)) + b"\x00" for f in functions.values()]
    exports = [b"\x06memory\x02\x00"]
    for k, name in enumerate(functions):
        exports.append(number(len(name)) + name.encode() + b"\x00" + number(k))
    sections = {
        1: vector(types),
        3: vector([number(k) for k in range(len(functions))]),
        5: vector([b"\x00\x01"]),
        7: vector(exports),
        10: vector([f.bytes() for f in functions.values()]),
    }
    body = b"".join(bytes([k]) + number(len(section)) + section for k, section in sections.items())
    return b"\0asm\1\0\0\0" + body


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    only_check = parser.parse_args().check
    text, code = ENGINE.read_text(), base64.b64encode(module()).decode()
    lines = ",\n".join(f'  "{code[i : i + 92]}"' for i in range(0, len(code), 92))
    written = re.sub(r"(const KERNELS = \[\n).*?(\n\])", lambda m: m[1] + lines + m[2], text, count=1, flags=re.S)
    if only_check:
        raise SystemExit(0 if written == text else f"{ENGINE.name} holds other kernels: run this script")
    ENGINE.write_text(written)
    print(f"{len(module())} bytes, {len(code)} as base64")


if __name__ == "__main__":
    main()
