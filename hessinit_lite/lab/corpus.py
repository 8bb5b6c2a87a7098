"""Texts as numbers. Words, for word vectors: `docstrings` needs no network, `text8` is fetched.
Letters, for a language model: `python_text` comes with Python.
"""

import ast
import platform
import re
import warnings
import zipfile
from collections import defaultdict
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..models import check_generator, check_sizes
from .data import Data, cache_folder, fetch

# Not official: what several unrelated projects pin.
# (The well-known 3bea1919949baf155f99411df5fada7e belongs to the text inside.)
TEXT8_URL = "http://mattmahoney.net/dc/text8.zip"
TEXT8_MD5 = "f26f94c5209bc6159618bad4a559ff81"


class Corpus(NamedTuple):
    """A text as numbers: word i is `words[tokens[i]]`, and `words[v]` occurs `counts[v]` times.

    `tokens` is [T], `counts` [V], both int64 and on one device; the most frequent word is number 0.

    Example:
        >>> tokens, counts = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([3, 2])
        >>> corpus = hl.Corpus("two words", tokens, ["on", "off"], counts)
        >>> center, context = corpus.skip_gram_pairs(100, window=2)
        >>> center.shape, set(center.tolist())  # one word has two neighbours on both sides
        (torch.Size([100]), {0})
    """

    name: str
    tokens: torch.Tensor
    words: list
    counts: torch.Tensor

    def to(self, device):
        """The same corpus on `device`."""
        return self._replace(tokens=self.tokens.to(device), counts=self.counts.to(device))

    def subsample(self, threshold=1e-3, generator=None):
        """The corpus without many of its frequent words (Mikolov et al. 2013, eq. 5).

        A word that is the fraction f of the text is kept with probability min(1, √(threshold/f)).
        `counts` stay those of the full text: negatives are drawn by them.

        Raises:
            ValueError: for a threshold that is not positive.
        """
        check_generator(generator, self.tokens)
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold!r}")
        keep = (threshold * self.counts.sum() / self.counts).sqrt()[self.tokens]
        chance = torch.rand(keep.shape, generator=generator, device=keep.device)
        return self._replace(tokens=self.tokens[chance < keep])

    def skip_gram_pairs(self, size, window=5, generator=None):
        """`size` random pairs `(center [size], context [size])`, 1 to `window` words apart.

        Position, distance and side are uniform; a center has a whole window on both sides.

        Raises:
            ValueError: for a size or window below 1, or a text shorter than 2 window + 1 words.
        """
        check_generator(generator, self.tokens)
        check_sizes(size=size, window=window)
        places = len(self.tokens) - 2 * window
        if places < 1:
            raise ValueError(
                f"window must be below half the text's {len(self.tokens)} words, got {window}"
            )
        options = {"generator": generator, "device": self.tokens.device}
        center = torch.randint(window, window + places, (size,), **options)
        distance = torch.randint(1, window + 1, (size,), **options)
        side = 2 * torch.randint(2, (size,), **options) - 1
        return self.tokens[center], self.tokens[center + side * distance]

    def batch(self, size, window=5, negatives=5, generator=None, dtype=None):
        """A batch for `SkipGram`: `(inputs [size, 2 + negatives], targets [size, 1 + negatives])`.

        Inputs are a word, one from its context and random others; targets 1, 0, ..., 0 in `dtype`,
        which should be the model's (torch's default if None).

        Raises:
            ValueError: as `skip_gram_pairs`, and for fewer than 1 negative.
        """
        check_sizes(negatives=negatives)
        center, context = self.skip_gram_pairs(size, window, generator)
        others = draw_negatives(self.counts, (size, negatives), generator)
        inputs = torch.cat([center[:, None], context[:, None], others], dim=1)
        targets = torch.zeros(size, 1 + negatives, dtype=dtype, device=inputs.device)
        targets[:, 0] = 1
        return inputs, targets


def draw_negatives(counts, shape, generator=None, power=0.75):
    """Random words of the given shape, v with probability ∝ counts[v]^power (Mikolov et al. 2013).

    On the device of `counts`. A pair's true context may be among them, as rarely as chance has it.

    Example:
        >>> words = hl.draw_negatives(torch.tensor([5, 0, 0]), (2, 3))
        >>> words.tolist()
        [[0, 0, 0], [0, 0, 0]]
    """
    check_generator(generator, counts)
    draws = torch.Size(shape).numel()
    weights = counts.to(torch.get_default_dtype()) ** power
    return torch.multinomial(weights, draws, replacement=True, generator=generator).view(shape)


def _as_corpus(name, pieces, min_count):
    """Corpus of the words in `pieces`, an iterable of lists of words; rare words are left out."""
    ids = defaultdict(count().__next__)  # a new word gets the next number
    tokens = np.concatenate(
        [np.zeros(0, np.int64)]
        + [np.fromiter((ids[word] for word in words), np.int64, len(words)) for words in pieces]
    )
    counts, words = np.bincount(tokens, minlength=len(ids)), list(ids)
    frequent = np.flatnonzero(counts >= min_count).tolist()
    kept = sorted(frequent, key=lambda i: (-counts[i], words[i]))
    if not kept:
        raise ValueError(f"no word of {name} occurs {min_count} times: lower min_count")
    renumbered = np.full(len(words), -1)
    renumbered[kept] = np.arange(len(kept))
    tokens = renumbered[tokens]
    return Corpus(
        name,
        torch.from_numpy(tokens[tokens >= 0]),
        [words[i] for i in kept],
        torch.from_numpy(counts[kept]),
    )


@lru_cache
def docstrings(packages=("numpy", "scipy", "sklearn"), min_count=5):
    """A `Corpus` of technical English: the docstrings of installed packages, about a million words.

    Needs no network: the book's default text. The source files are parsed, not imported, in the
    order of their names, without tests and without the code examples (`>>>`); words are runs of the
    letters a-z in lower case, and those that occur fewer than `min_count` times are left out. The
    text follows the installed versions, which the corpus names. Takes seconds; a repeated call does
    not.

    Raises:
        ValueError: for a package that is not installed or has a file that cannot be parsed, or
            where no word is frequent enough.

    Example:
        >>> corpus = hl.docstrings(("hessinit_lite",))
        >>> corpus.words[0], len(corpus.words) == len(corpus.counts)
        ('the', True)
    """
    files = []
    for package in packages:
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # for a part of a package that is not there, or no name
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"no package called {package!r} is installed")
        root = Path(spec.submodule_search_locations[0])
        paths = ((path.relative_to(root), path) for path in root.rglob("*.py"))
        files += [
            (path, package)
            for inside, path in sorted(paths)
            if not {"test", "tests"} & {*inside.parts}
        ]
    pieces = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other people's code
        for path, package in tqdm(files, desc="docstrings", leave=False, delay=1):
            try:
                texts = list(_docstrings(ast.parse(path.read_bytes())))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise ValueError(
                    f"{path} cannot be parsed ({type(error).__name__}: {error}): "
                    f"repair it or ask for packages without {package!r}"
                ) from error
            for text in texts:
                prose = re.sub(r"(?m)^\s*(>>>|\.\.\. ).*$", "", text)
                pieces.append(re.findall("[a-z]+", prose.lower()))
    names = metadata.packages_distributions()  # sklearn comes with scikit-learn
    versions = (f"{p} {metadata.version(names[p][0])}" if p in names else p for p in packages)
    return _as_corpus(f"docstrings of {', '.join(versions)}", pieces, min_count)


def _docstrings(node):
    """The docstrings of `node`, a part of a syntax tree, and of what it defines."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield ast.get_docstring(node, clean=False) or ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):  # expressions, most of a tree, define nothing
            yield from _docstrings(child)


def _read_text8():
    path = fetch(TEXT8_URL, cache_folder() / "text8", TEXT8_MD5, "hessinit_lite.docstrings()")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("text8").decode("ascii")
    except Exception as error:  # zipfile and zlib raise a dozen kinds
        raise ValueError(
            f"{path} is no zip archive of text8 ({type(error).__name__}: {error}): "
            "delete it and run again to download it"
        ) from error


def _split(text, length=10**6):
    """The words of `text` in lists of about `length` characters: one list of all would be large."""
    start = 0
    while start < len(text):
        end = text.find(" ", start + length)
        end = len(text) if end < 0 else end
        yield text[start:end].split()
        start = end


def text8(min_count=5):
    """text8 (Mahoney 2011): a cleaned Wikipedia up to 10⁸ letters, 17 million words, as a `Corpus`.

    Looked for in `cache_folder()/text8`, else downloaded. The MD5 sum that is checked is the one
    that several projects pin, not one that the author publishes. Words that occur fewer than
    `min_count` times are left out.

    Raises:
        DataUnavailable: when it is neither there nor downloadable.
        ValueError: for a broken file.

    Example:
        >>> corpus = hl.text8()  # fetched once, 31 MB  # doctest: +SKIP
        >>> corpus.words[0]  # doctest: +SKIP
        'the'
    """
    return _as_corpus("text8", _split(_read_text8()), min_count)


@lru_cache
def python_text(context=32):
    """Python's own help texts, letter by letter, for a language model: a `Data` of windows.

    Needs no network: it is what `help("topics")` shows (`pydoc_data`), about half a million
    letters, so it follows the version of Python. Tokens are ASCII codes, 0 to 127 (others become
    "?"). Inputs are [N, context], targets [N, context] the letters that follow each; windows do not
    overlap, and the last tenth of the text is the test set.

    Raises:
        ValueError: for a context below 1 or above a hundredth of the text, or a Python that comes
            without these texts.

    Example:
        >>> inputs, targets = hl.python_text(context=16).train
        >>> inputs.shape[1], bool((inputs[:, 1:] == targets[:, :-1]).all()), int(inputs.max()) < 128
        (16, True, True)
    """
    check_sizes(context=context)
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # some distributions ship Python in parts
        raise ValueError(
            "this Python comes without pydoc_data: install its standard library in full"
        ) from error
    text = "".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    if context > len(text) // 100:
        raise ValueError(f"context must be at most {len(text) // 100}, got {context}")
    letters = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    windows = letters[: (len(letters) - 1) // context * context].view(-1, context)
    following = letters[1 : windows.numel() + 1].view(-1, context)
    train = len(windows) * 9 // 10
    parts = [(windows[rows], following[rows]) for rows in (slice(train), slice(train, None))]
    return Data(f"Python {platform.python_version()}'s help texts", *parts)
