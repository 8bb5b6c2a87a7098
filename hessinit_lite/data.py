"""Data sets as tensors, pictures (`Data`) and texts (`Corpus`).

`digits` and `docstrings` need no network. The others are fetched once and checked: files live in the
folder that the environment variable HESSINIT_DATA names, else in the user's cache, and downloads
must match the official checksums.
"""

import ast
import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import defaultdict
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from .models import check_generator, check_sizes

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

# Zalando's own table of files; their names are MNIST's.
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
# The sum of the archive is Krizhevsky's, those of the files in it are torchvision's.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Not official: what several unrelated projects pin. (The well-known 3bea1919949baf155f99411df5fada7e
# belongs to the text inside.)
TEXT8_URL = "http://mattmahoney.net/dc/text8.zip"
TEXT8_MD5 = "f26f94c5209bc6159618bad4a559ff81"


class DataUnavailable(RuntimeError):
    """A data set is not in the cache and could not be downloaded."""


class Data(NamedTuple):
    """A classification data set. `train` and `test` are batches `(inputs, targets [N])`; inputs are
    flat [N, d], or pictures [N, channels, height, width] where there are colours.
    """

    name: str
    train: tuple
    test: tuple

    def batch(self, size, generator=None):
        """`size` random training samples, without replacement, as `(inputs, targets)`.

        Raises ValueError if the training set is smaller than `size`.
        """
        inputs, targets = self.train
        if not 1 <= size <= len(inputs):
            raise ValueError(f"batch size must lie in 1..{len(inputs)}, got {size}")
        # The shuffle stays on the data's device when the generator lives there.
        device = inputs.device if generator is None else generator.device
        rows = torch.randperm(len(inputs), generator=generator, device=device)[:size]
        rows = rows.to(inputs.device)
        return inputs[rows], targets[rows]

    def to(self, *args, **kwargs):
        """The same data with inputs moved as by `Tensor.to`; targets follow the device only."""
        def move(batch):
            inputs = batch[0].to(*args, **kwargs)
            return inputs, batch[1].to(inputs.device)
        return Data(self.name, move(self.train), move(self.test))


def _as_data(name, train_x, train_y, test_x, test_y, standardize, white):
    """Data from arrays of pixels in 0..white; in place once they are floats, as they may be large."""
    train_x, test_x = (torch.as_tensor(x).to(torch.get_default_dtype(), copy=True).div_(white)
                       for x in (train_x, test_x))
    if standardize:  # one mean and one scale for all pixels: the picture's shape is kept
        mean, std = train_x.mean(), train_x.std()
        train_x.sub_(mean).div_(std)
        test_x.sub_(mean).div_(std)
    return Data(name, (train_x, torch.as_tensor(train_y).long()),
                (test_x, torch.as_tensor(test_y).long()))


def digits(standardize=True):
    """scikit-learn's 8×8 handwritten digits: 1,437 training and 360 test pictures, 10 classes.

    Embedded in scikit-learn, so no network is needed: the book's default. Inputs are flat [N, 64];
    standardized to mean 0 and variance 1 over all training pixels, or in [0, 1].
    """
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=360, random_state=0, stratify=y)
    return _as_data("digits", train_x, train_y, test_x, test_y, standardize, white=16)


def cache_folder():
    """Where data files live: $HESSINIT_DATA, else the user's cache folder."""
    return Path(os.environ.get("HESSINIT_DATA") or pooch.os_cache("hessinit_lite"))


def _fetch(url, folder, md5, offline="hessinit_lite.digits()"):
    """Path of a file in the cache; downloaded if it is missing. `offline`: what to use instead."""
    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        found = pooch.file_hash(str(path), alg="md5")
        if found != md5:
            warnings.warn(f"{path} has MD5 {found}, expected {md5}: reading it all the same; delete "
                          "it to download it", stacklevel=4)
        return path
    try:
        pooch.retrieve(url, known_hash=f"md5:{md5}", path=folder, fname=path.name, progressbar=True)
    except (OSError, ValueError) as error:  # no network; or pooch refused a wrong checksum
        failed = (f"could not download {path.name} into {folder} ({type(error).__name__})"
                  if isinstance(error, OSError) else
                  f"the download of {path.name} was corrupt (its MD5 is not {md5}) and was not kept: "
                  "run again")
        raise DataUnavailable(
            f"{failed}. Or put the file into {folder}, or set HESSINIT_DATA to a folder that has it, "
            f"or use {offline}, which needs no network") from error
    return path


def _read_idx(path):
    """The array in a gzipped IDX file of unsigned bytes (the format of the MNIST files)."""
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, ndim = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{ndim}I", content[4:4 + 4 * ndim])
        if (zeros, kind) != (0, 8):
            raise ValueError("wrong magic number")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise ValueError(f"{path} is no gzipped IDX file of bytes ({error}): delete it and run "
                         "again to download it") from error


def _idx_data(name, url, md5s, standardize):
    folder, arrays = cache_folder() / name, []
    for file, md5 in md5s.items():
        arrays.append(_read_idx(_fetch(url + file, folder, md5)))
    train_x, train_y, test_x, test_y = arrays
    return _as_data(name, train_x.reshape(len(train_x), -1), train_y,
                    test_x.reshape(len(test_x), -1), test_y, standardize, white=255)


def mnist(standardize=True):
    """MNIST handwritten digits, 28×28: 60,000 training and 10,000 test pictures, flat [N, 784].

    Looked for in `cache_folder()/mnist`, else downloaded with the official MD5 sums. A file you put
    there yourself with another sum is read after a warning that names both sums.

    Raises DataUnavailable when it is neither there nor downloadable, ValueError for a broken file.
    """
    return _idx_data("mnist", MNIST_URL, MNIST_MD5, standardize)


def fashion_mnist(standardize=True):
    """Fashion-MNIST (Xiao et al. 2017): pictures of clothes, 10 classes, in MNIST's numbers and format.

    Everything else as for `mnist`; the folder is `cache_folder()/fashion_mnist`.
    """
    return _idx_data("fashion_mnist", FASHION_MNIST_URL, FASHION_MNIST_MD5, standardize)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dicts and NumPy arrays. A plain pickle can run any code."""

    # NumPy moved these functions between versions and pickles name the old places, too.
    _KNOWN = {"ndarray": np.ndarray, "dtype": np.dtype,
              "_reconstruct": np.empty(0).__reduce__()[0],
              "_frombuffer": np.empty(0).__reduce_ex__(5)[0]}

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in self._KNOWN:
            return self._KNOWN[name]
        if (module, name) == ("_codecs", "encode"):  # Python 3 writes bytes so for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which pictures do not need")


def _cifar10_files():
    """The folder or archive, and {name: content} of the CIFAR-10 files in it."""
    folder = cache_folder() / "cifar10"
    batches = folder / "cifar-10-batches-py"
    paths = [batches / name for name in CIFAR10_MD5 if (batches / name).exists()]
    if paths:
        return batches, {path.name: path.read_bytes() for path in paths}
    archive = _fetch(CIFAR10_URL, folder, CIFAR10_ARCHIVE_MD5)
    try:
        with tarfile.open(archive, "r:gz") as tar:  # read in place: nothing to extract half
            members = ((member.name.rsplit("/", 1)[-1], member) for member in tar)
            return archive, {name: tar.extractfile(member).read()
                             for name, member in members if name in CIFAR10_MD5}
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{archive} is no tar.gz archive ({error}): delete it and run again to "
                         "download it") from error


def _read_cifar10_batch(where, content):
    """(pictures [N, 3, 32, 32], labels [N]) of one file, as bytes."""
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        pictures, labels = np.array(batch["data"]), np.array(batch["labels"])
        if pictures.dtype != np.uint8 or labels.shape != pictures.shape[:1]:
            raise ValueError("data and labels do not fit")
        if not np.isin(labels, range(10)).all():
            raise ValueError("labels outside 0..9")
        return pictures.reshape(-1, 3, 32, 32), labels
    except (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError,
            ValueError) as error:
        raise ValueError(f"{where} is no CIFAR-10 batch ({error}): delete it") from error


def cifar10(allow_unverified=False, standardize=True):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test pictures, [N, 3, 32, 32], 10 classes.

    Standardized to mean 0 and variance 1 over all training pixels and colours together, or in [0, 1].
    Looked for in `cache_folder()/cifar10/cifar-10-batches-py` (as many of data_batch_1 ... 5 as are
    there, and test_batch), else downloaded with the official MD5 sum.

    allow_unverified: read files of other sums, after a warning. They are pickles, which can run code,
        so that only arrays, strings, numbers, lists and dicts are unpickled, whatever the sum.
    The name of the data says so when files are not the official ones or some are missing.

    Raises ValueError for a file with another sum (naming both), a missing or a broken file,
    DataUnavailable when there is none and none can be downloaded.
    """
    source, files = _cifar10_files()
    if "test_batch" not in files or len(files) < 2:
        raise ValueError(f"{source} needs test_batch and at least one of data_batch_1 ... 5; it has "
                         f"{', '.join(files) or 'none of them'}. Delete it to download CIFAR-10")
    verified = True
    for name, content in files.items():
        found = hashlib.md5(content).hexdigest()
        if found != CIFAR10_MD5[name]:
            sums = f"{source / name} has MD5 {found}, expected {CIFAR10_MD5[name]}"
            if not allow_unverified:
                raise ValueError(f"{sums}. Delete {source} to download the official files, or read it "
                                 "all the same with allow_unverified=True")
            warnings.warn(f"{sums}: reading it all the same", stacklevel=2)
            verified = False
    arrays = {name: _read_cifar10_batch(source / name, content) for name, content in files.items()}
    test_x, test_y = arrays.pop("test_batch")
    train_x, train_y = (np.concatenate(parts) for parts in zip(*arrays.values()))
    notes = [] if verified else ["unverified files"]
    if len(train_x) != 50_000:
        notes.append(f"{len(train_x):,} training pictures")
    name = f"cifar10 ({', '.join(notes)})" if notes else "cifar10"
    return _as_data(name, train_x, train_y, test_x, test_y, standardize, white=255)


class Corpus(NamedTuple):
    """A text as numbers: `words[tokens[i]]` is its i-th word, `counts[v]` how often `words[v]` occurs.

    `tokens` is [T], `counts` [V], both int64 and on one device; the most frequent word is number 0.
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

        A word that is the fraction f of the text is kept with probability min(1, sqrt(threshold/f)).
        `counts` stay those of the full text: negatives are drawn by them. Raises ValueError for a
        threshold that is not positive.
        """
        check_generator(generator, self.tokens)
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold!r}")
        keep = (threshold * self.counts.sum() / self.counts).sqrt()[self.tokens]
        chance = torch.rand(keep.shape, generator=generator, device=keep.device)
        return self._replace(tokens=self.tokens[chance < keep])

    def skip_gram_pairs(self, size, window=5, generator=None):
        """`size` random pairs `(center [size], context [size])`, 1 to `window` words apart.

        Position, distance and side are uniform; a center has a whole window on both sides. Raises
        ValueError for a size or window below 1, or a text shorter than 2 window + 1 words.
        """
        check_generator(generator, self.tokens)
        check_sizes(size=size, window=window)
        places = len(self.tokens) - 2 * window
        if places < 1:
            raise ValueError(f"window must be below half the text's {len(self.tokens)} words, "
                             f"got {window}")
        options = dict(generator=generator, device=self.tokens.device)
        center = torch.randint(window, window + places, (size,), **options)
        distance = torch.randint(1, window + 1, (size,), **options)
        side = 2 * torch.randint(2, (size,), **options) - 1
        return self.tokens[center], self.tokens[center + side * distance]

    def batch(self, size, window=5, negatives=5, generator=None, dtype=None):
        """A batch for `SkipGram`: `(inputs [size, 2 + negatives], targets [size, 1 + negatives])`.

        Inputs are a word, one from its context and random others; targets 1, 0, ..., 0 in `dtype`,
        which should be the model's (torch's default if None). Errors as `skip_gram_pairs`.
        """
        check_sizes(negatives=negatives)
        center, context = self.skip_gram_pairs(size, window, generator)
        others = draw_negatives(self.counts, (size, negatives), generator)
        inputs = torch.cat([center[:, None], context[:, None], others], dim=1)
        targets = torch.zeros(size, 1 + negatives, dtype=dtype, device=inputs.device)
        targets[:, 0] = 1
        return inputs, targets


def draw_negatives(counts, shape, generator=None, power=0.75):
    """Random words [*shape], word v with probability ∝ counts[v]^power (Mikolov et al. 2013).

    On the device of `counts`. A pair's true context may be among them, as rarely as chance has it.
    """
    check_generator(generator, counts)
    draws = torch.Size(shape).numel()
    weights = counts.to(torch.get_default_dtype()) ** power
    return torch.multinomial(weights, draws, replacement=True, generator=generator).view(shape)


def _as_corpus(name, pieces, min_count):
    """Corpus of the words in `pieces`, an iterable of lists of words; rare words are left out."""
    ids = defaultdict(count().__next__)  # a new word gets the next number
    tokens = np.concatenate([np.zeros(0, np.int64)] + [
        np.fromiter((ids[word] for word in words), np.int64, len(words)) for words in pieces])
    counts, words = np.bincount(tokens, minlength=len(ids)), list(ids)
    kept = sorted(np.flatnonzero(counts >= min_count).tolist(), key=lambda i: (-counts[i], words[i]))
    if not kept:
        raise ValueError(f"no word of {name} occurs {min_count} times: lower min_count")
    renumbered = np.full(len(words), -1)
    renumbered[kept] = np.arange(len(kept))
    tokens = renumbered[tokens]
    return Corpus(name, torch.from_numpy(tokens[tokens >= 0]), [words[i] for i in kept],
                  torch.from_numpy(counts[kept]))


@lru_cache
def docstrings(packages=("numpy", "scipy", "sklearn"), min_count=5):
    """A `Corpus` of technical English: the docstrings of installed packages, about a million words.

    Needs no network: the book's default text. The source files are parsed, not imported, in the order
    of their names, without tests and without the code examples (`>>>`); words are runs of the letters
    a-z in lower case, and those that occur fewer than `min_count` times are left out. The text
    follows the installed versions, which the corpus names. Takes seconds; a repeated call does not.

    Raises ValueError for a package that is not installed, or where no word is frequent enough.
    """
    files = []
    for package in packages:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"no package called {package!r} is installed")
        root = Path(spec.submodule_search_locations[0])
        paths = ((path.relative_to(root), path) for path in root.rglob("*.py"))
        files += [path for inside, path in sorted(paths) if not {"test", "tests"} & {*inside.parts}]
    pieces = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other people's code
        for path in tqdm(files, desc="docstrings", leave=False, delay=1):
            for text in _docstrings(ast.parse(path.read_bytes())):
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
    path = _fetch(TEXT8_URL, cache_folder() / "text8", TEXT8_MD5, "hessinit_lite.docstrings()")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("text8").decode("ascii")
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no zip archive of text8 ({error}): delete it and run again to "
                         "download it") from error


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

    Looked for in `cache_folder()/text8`, else downloaded. The MD5 sum that is checked is the one that
    several projects pin, not one that the author publishes. Words that occur fewer than `min_count`
    times are left out.

    Raises DataUnavailable when it is neither there nor downloadable, ValueError for a broken file.
    """
    return _as_corpus("text8", _split(_read_text8()), min_count)
