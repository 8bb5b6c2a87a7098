"""Data sets as tensors: `digits` needs no network, `mnist` is fetched once and checked.

Files live in the folder that the environment variable HESSINIT_DATA names, else in the user's
cache. Downloads must match the official checksums.
"""

import gzip
import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


class DataUnavailable(RuntimeError):
    """A data set is not in the cache and could not be downloaded."""


class Data(NamedTuple):
    """A classification data set. `train` and `test` are batches `(inputs [N, d], targets [N])`."""

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


def _as_data(name, train_x, train_y, test_x, test_y, standardize):
    train_x, test_x = (torch.as_tensor(x, dtype=torch.get_default_dtype()) for x in (train_x, test_x))
    if standardize:  # one mean and one scale for all pixels: the picture's shape is kept
        mean, std = train_x.mean(), train_x.std()
        train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    return Data(name, (train_x, torch.as_tensor(train_y).long()),
                (test_x, torch.as_tensor(test_y).long()))


def digits(standardize=True):
    """scikit-learn's 8×8 handwritten digits: 1,437 training and 360 test pictures, 10 classes.

    Embedded in scikit-learn, so no network is needed: the book's default. Inputs are flat [N, 64];
    standardized to mean 0 and variance 1 over all training pixels, or in [0, 1].
    """
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x / 16, y, test_size=360, random_state=0, stratify=y)
    return _as_data("digits", train_x, train_y, test_x, test_y, standardize)


def cache_folder():
    """Where data files live: $HESSINIT_DATA, else the user's cache folder."""
    return Path(os.environ.get("HESSINIT_DATA") or pooch.os_cache("hessinit_lite"))


def _fetch(url, folder, md5):
    """Path of a file in the cache; downloaded if it is missing."""
    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        found = pooch.file_hash(str(path), alg="md5")
        if found != md5:
            warnings.warn(f"{path} has MD5 {found}, the official file has {md5}: reading it all "
                          "the same; delete it to download the official one", stacklevel=4)
        return path
    try:
        pooch.retrieve(url, known_hash=f"md5:{md5}", path=folder, fname=path.name, progressbar=True)
    except (OSError, ValueError) as error:  # no network; or pooch refused a wrong checksum
        raise DataUnavailable(
            f"could not download {path.name} into {folder} ({type(error).__name__}). Put the file "
            "there, or set HESSINIT_DATA to a folder that has it, or use "
            "hessinit_lite.digits(), which needs no network") from error
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


def mnist(standardize=True):
    """MNIST handwritten digits, 28×28: 60,000 training and 10,000 test pictures, flat [N, 784].

    Looked for in `cache_folder()/mnist`, else downloaded with the official MD5 sums. A file you put
    there yourself with another sum is read after a warning that names both sums.

    Raises DataUnavailable when it is neither there nor downloadable, ValueError for a broken file.
    """
    folder = cache_folder() / "mnist"
    arrays = [_read_idx(_fetch(MNIST_URL + name, folder, md5)) for name, md5 in MNIST_MD5.items()]
    train_x, train_y, test_x, test_y = arrays
    return _as_data("mnist", train_x.reshape(len(train_x), -1) / 255, train_y,
                    test_x.reshape(len(test_x), -1) / 255, test_y, standardize)
