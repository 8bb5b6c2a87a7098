"""Data sets as tensors, pictures (`Data`) and texts (`Corpus`).

`digits` and `docstrings` need no network. The others are fetched once and checked: files live in
the folder that the environment variable HESSINIT_DATA names, else in the user's cache, and
downloads must match the official checksums.
"""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import warnings
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pooch
import torch

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


class DataUnavailable(RuntimeError):
    """A data set is not in the cache and could not be downloaded.

    Example:
        >>> issubclass(hl.DataUnavailable, RuntimeError)
        True
    """


class Data(NamedTuple):
    """A classification data set. `train` and `test` are batches `(inputs, targets [N])`.

    Inputs are flat [N, d], or pictures [N, channels, height, width] where there are colours.

    Example:
        >>> batch = torch.zeros(6, 2), torch.arange(6) % 2
        >>> data = hl.Data("zeros", train=batch, test=batch)
        >>> data.batch(4)[0].shape, data.to(torch.float64).train[0].dtype
        (torch.Size([4, 2]), torch.float64)
    """

    name: str
    train: tuple
    test: tuple

    def batch(self, size, generator=None):
        """`size` random training samples, without replacement, as `(inputs, targets)`.

        Raises:
            ValueError: if the training set is smaller than `size`.
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
    """Data from arrays of pixels in 0..white; in place once they are floats: they may be large."""
    train_x, test_x = (
        torch.as_tensor(x).to(torch.get_default_dtype(), copy=True).div_(white)
        for x in (train_x, test_x)
    )
    if standardize:  # one mean and one scale for all pixels: the picture's shape is kept
        mean, std = train_x.mean(), train_x.std()
        train_x.sub_(mean).div_(std)
        test_x.sub_(mean).div_(std)
    return Data(
        name, (train_x, torch.as_tensor(train_y).long()), (test_x, torch.as_tensor(test_y).long())
    )


def digits(standardize=True):
    """scikit-learn's 8×8 handwritten digits: 1,437 training and 360 test pictures, 10 classes.

    Embedded in scikit-learn, so no network is needed: the book's default. Inputs are flat [N, 64];
    standardized to mean 0 and variance 1 over all training pixels, or in [0, 1].

    Example:
        >>> data = hl.digits()
        >>> data.train[0].shape, data.test[1].shape
        (torch.Size([1437, 64]), torch.Size([360]))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=360, random_state=0, stratify=y
    )
    return _as_data("digits", train_x, train_y, test_x, test_y, standardize, white=16)


def cache_folder():
    """Where data files live: $HESSINIT_DATA, else the user's cache folder."""
    return Path(os.environ.get("HESSINIT_DATA") or pooch.os_cache("hessinit_lite"))


def _is_there(path):
    """Whether there is a file. ValueError for a folder; or for a pipe, which may never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no plain file: move it away and run again")
    return path.exists()


def fetch(url, folder, md5, offline="hessinit_lite.digits()"):
    """Path of a file in the cache; downloaded if it is missing. `offline`: what to use instead."""
    path = folder / url.rsplit("/", 1)[1]
    if _is_there(path):
        found = pooch.file_hash(str(path), alg="md5")
        if found != md5:
            warnings.warn(
                f"{path} has MD5 {found}, expected {md5}: reading it all the same; "
                "delete it to download it",
                stacklevel=4,
            )
        return path
    try:
        pooch.retrieve(url, known_hash=f"md5:{md5}", path=folder, fname=path.name, progressbar=True)
    except (OSError, ValueError) as error:  # no network; or pooch refused a wrong checksum
        failed = (
            f"could not download {path.name} into {folder} ({type(error).__name__})"
            if isinstance(error, OSError)
            else f"the download of {path.name} was corrupt (its MD5 is not {md5}) and was not "
            "kept: run again"
        )
        raise DataUnavailable(
            f"{failed}. Or put the file into {folder}, or set HESSINIT_DATA to a folder that has "
            f"it, or use {offline}, which needs no network"
        ) from error
    return path


def _read_idx(path):
    """The array in a gzipped IDX file of unsigned bytes (the format of the MNIST files)."""
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, ndim = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
        if (zeros, kind) != (0, 8):
            raise ValueError("wrong magic number")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
    except Exception as error:  # gzip, struct and NumPy raise a dozen kinds
        raise ValueError(
            f"{path} is no gzipped IDX file of bytes ({type(error).__name__}: "
            f"{error}): delete it and run again to download it"
        ) from error


def _check_idx(name, pictures, labels):
    """What is wrong with the arrays of a pair of files called `name`, or None."""
    if pictures.shape[1:] != (28, 28) or not len(pictures):
        return f"{name}-images-idx3-ubyte.gz holds {pictures.shape}, not pictures [N, 28, 28]"
    file = f"{name}-labels-idx1-ubyte.gz"
    if labels.ndim != 1:
        return f"{file} holds {labels.shape}, not labels [N]"
    if len(labels) != len(pictures):
        return f"{file} holds {len(labels)} labels for {len(pictures)} pictures"
    return f"{file} holds labels outside 0..9" if labels.max() > 9 else None


def _idx_data(name, url, md5s, standardize):
    folder, arrays = cache_folder() / name, []
    for file, md5 in md5s.items():
        arrays.append(_read_idx(fetch(url + file, folder, md5)))
    train_x, train_y, test_x, test_y = arrays
    wrong = _check_idx("train", train_x, train_y) or _check_idx("t10k", test_x, test_y)
    if wrong:
        raise ValueError(f"{folder / wrong}: delete it and run again to download it")
    return _as_data(
        name,
        train_x.reshape(len(train_x), -1),
        train_y,
        test_x.reshape(len(test_x), -1),
        test_y,
        standardize,
        white=255,
    )


def mnist(standardize=True):
    """MNIST handwritten digits, 28×28: 60,000 training and 10,000 test pictures, flat [N, 784].

    Looked for in `cache_folder()/mnist`, else downloaded with the official MD5 sums. A file you put
    there yourself with another sum is read after a warning that names both sums.

    Raises:
        DataUnavailable: when it is neither there nor downloadable.
        ValueError: for a broken file or for files that do not fit together.

    Example:
        >>> data = hl.mnist()  # fetched once  # doctest: +SKIP
        >>> data.train[0].shape  # doctest: +SKIP
        torch.Size([60000, 784])
    """
    return _idx_data("mnist", MNIST_URL, MNIST_MD5, standardize)


def fashion_mnist(standardize=True):
    """Fashion-MNIST (Xiao et al. 2017): clothes, 10 classes, in MNIST's numbers and format.

    Everything else, errors too, as for `mnist`; the folder is `cache_folder()/fashion_mnist`.

    Example:
        >>> data = hl.fashion_mnist()  # fetched once  # doctest: +SKIP
        >>> data.train[0].shape  # doctest: +SKIP
        torch.Size([60000, 784])
    """
    return _idx_data("fashion_mnist", FASHION_MNIST_URL, FASHION_MNIST_MD5, standardize)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dicts and NumPy arrays. A pickle can run any code."""

    # NumPy moved these functions between versions and pickles name the old places, too.
    _KNOWN: ClassVar = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.empty(0).__reduce__()[0],
        "_frombuffer": np.empty(0).__reduce_ex__(5)[0],
    }

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
    paths = [batches / name for name in CIFAR10_MD5 if _is_there(batches / name)]
    if paths:
        return batches, {path.name: path.read_bytes() for path in paths}
    archive = fetch(CIFAR10_URL, folder, CIFAR10_ARCHIVE_MD5)
    files = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:  # read in place: nothing to extract half
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name in CIFAR10_MD5 and not member.isfile():
                    raise ValueError(f"{member.name} in it is no plain file")
                if name in CIFAR10_MD5:
                    files[name] = tar.extractfile(member).read()
    except Exception as error:  # tarfile, gzip and zlib raise a dozen kinds
        raise ValueError(
            f"{archive} is no tar.gz archive of CIFAR-10 ({type(error).__name__}: "
            f"{error}): delete it and run again to download it"
        ) from error
    return archive, files


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
    except Exception as error:  # pickle's documentation names no full list of what it raises
        raise ValueError(
            f"{where} is no CIFAR-10 batch ({type(error).__name__}: {error}): delete "
            "it and run again to download it"
        ) from error


def cifar10(allow_unverified=False, standardize=True):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test pictures, [N, 3, 32, 32].

    10 classes. Standardized to mean 0 and variance 1 over all training pixels and colours together,
    or in [0, 1]. Looked for in `cache_folder()/cifar10/cifar-10-batches-py` (as many of
    data_batch_1 ... 5 as are there, and test_batch), else downloaded with the official MD5 sum. The
    name of the data says so when files are not the official ones or some are missing.

    Args:
        allow_unverified: read files of other sums, after a warning. They are pickles, which can run
            code: only arrays, strings, numbers, lists and dicts are unpickled, whatever the sum.

    Raises:
        ValueError: for a file with another sum (naming both), a missing or a broken file.
        DataUnavailable: when there is none and none can be downloaded.

    Example:
        >>> data = hl.cifar10()  # fetched once  # doctest: +SKIP
        >>> data.train[0].shape  # doctest: +SKIP
        torch.Size([50000, 3, 32, 32])
    """
    source, files = _cifar10_files()
    if "test_batch" not in files or len(files) < 2:
        raise ValueError(
            f"{source} needs test_batch and at least one of data_batch_1 ... 5; it "
            f"has {', '.join(files) or 'none of them'}. Delete it to download "
            "CIFAR-10"
        )
    verified = True
    for name, content in files.items():
        found = hashlib.md5(content).hexdigest()
        if found != CIFAR10_MD5[name]:
            sums = f"{source / name} has MD5 {found}, expected {CIFAR10_MD5[name]}"
            if not allow_unverified:
                raise ValueError(
                    f"{sums}. Delete {source} to download the official files, or read "
                    "it all the same with allow_unverified=True"
                )
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
