"""Data sets: shapes, scaling, checksums, and clear errors when a file cannot be had."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.lab import corpus as corpus_module
from hessinit_lite.lab import data as data_module


def test_digits_are_standardized_and_split(digits):
    (x, t), (test_x, test_t) = digits.train, digits.test
    assert x.shape == (1437, 64) and test_x.shape == (360, 64)
    assert abs(float(x.mean())) < 1e-6 and float(x.std()) == pytest.approx(1, abs=1e-6)
    assert x.dtype == torch.get_default_dtype() and t.dtype == torch.int64
    assert set(t.tolist()) == set(test_t.tolist()) == set(range(10))
    plain = hl.digits(standardize=False).train[0]
    assert (plain.min(), plain.max()) == (0, 1)


def test_batches_follow_the_seed(digits):
    first, again, other = (digits.batch(50, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    _, t = digits.batch(1437)
    assert torch.equal(t.bincount(), digits.train[1].bincount())  # without replacement
    for size in (0, 1438):
        with pytest.raises(ValueError, match="1..1437"):
            digits.batch(size)


def test_to_moves_inputs_and_leaves_labels(digits):
    moved = digits.to(torch.float64)
    assert moved.train[0].dtype == moved.test[0].dtype == torch.float64
    assert moved.train[1].dtype == torch.int64


def write_mnist(folder, samples=4):
    """Tiny files in MNIST's format; returns their pictures and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = []
    for name in data_module.MNIST_MD5:
        shape = (samples, 28, 28) if "images" in name else (samples,)
        array = rng.integers(0, 256 if "images" in name else 10, shape).astype(np.uint8)
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        (folder / name).write_bytes(gzip.compress(header + array.tobytes()))
        written.append(array)
    return written


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_files_are_read_after_a_warning_about_their_checksum(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    images, labels, test_images, test_labels = write_mnist(tmp_path / name)
    with pytest.warns(UserWarning) as warned:
        data = getattr(hl, name)(standardize=False)
    assert len(warned) == 4 and data.name == name
    for warning, (file, md5) in zip(warned, getattr(data_module, f"{name.upper()}_MD5").items()):
        assert f"expected {md5}" in str(warning.message) and file in str(warning.message)
        assert warning.filename == __file__  # the warning points at the caller
    np.testing.assert_allclose(data.train[0].numpy(), images.reshape(4, -1) / 255, rtol=1e-6)
    assert data.train[1].tolist() == labels.tolist() and data.test[1].tolist() == test_labels.tolist()
    assert data.test[0].shape == (4, 784)


def idx(array):
    """A gzipped IDX file of bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def garbled(content):
    """A gzip file whose header is right and whose body is not."""
    middle = len(content) // 2
    return content[:middle] + bytes(range(255, 155, -1)) + content[middle:]


@pytest.mark.parametrize("content", [
    b"no gzip", gzip.compress(b"\0\0\x0d\x01abcd"), gzip.compress(b""),
    garbled(gzip.compress(b"abcd")), idx(np.zeros(4))[:-9],
    gzip.compress(struct.pack(">HBB4I", 0, 8, 4, *4 * [2**32 - 1]))],
    ids=["no gzip", "no idx", "empty", "garbage", "truncated", "huge"])
@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_broken_file_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte.gz is no gzipped IDX file"):
        hl.mnist()


@pytest.mark.parametrize("images, labels, words", [
    ((20, 28, 28), np.zeros(19), "train-labels.* 19 labels for 20 pictures"),
    ((20, 28, 28), np.zeros((20, 1)), r"train-labels.*\(20, 1\), not labels"),
    ((20, 28, 28), np.full(20, 10), "train-labels.*labels outside 0..9"),
    ((20, 8, 8), np.zeros(20), r"train-images.*\(20, 8, 8\).*28"),
    ((20, 784), np.zeros(20), r"train-images.*\(20, 784\).*28"),
    ((0, 28, 28), np.zeros(0), r"train-images.*\(0, 28, 28\)"),
], ids=["19 labels", "two axes", "label 10", "8×8", "flat", "none"])
@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_files_that_do_not_fit_are_named(images, labels, words, tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros(images)))
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    with pytest.raises(ValueError, match=rf"{words}.*: delete it and run again"):
        hl.mnist()


@pytest.mark.parametrize("load, name", [
    ("mnist", "mnist/train-images-idx3-ubyte.gz"), ("cifar10", "cifar10/cifar-10-python.tar.gz"),
    ("cifar10", "cifar10/cifar-10-batches-py/data_batch_1"), ("text8", "text8/text8.zip")])
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_named(load, name, make, tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(ValueError, match=f"{path.name} is no plain file: move it away"):
        getattr(hl, load)()


def test_without_a_network_the_error_names_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    monkeypatch.setattr(data_module, "MNIST_URL", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(hl.DataUnavailable, match=r"HESSINIT_DATA.*hessinit_lite.digits\(\)"):
        hl.mnist()
    assert not list((tmp_path / "mnist").glob("*.gz"))


def test_a_download_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    write_mnist(tmp_path / "server")
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module.pooch, "retrieve", _retrieve_from(tmp_path / "server"))
    with pytest.raises(hl.DataUnavailable, match="train-images-idx3-ubyte.gz was corrupt.*run again"):
        hl.mnist()
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_a_corrupt_download_can_be_repeated(tmp_path, monkeypatch):
    write_mnist(tmp_path / "server")
    sums = {name: data_module.pooch.file_hash(str(tmp_path / "server" / name), alg="md5")
            for name in data_module.MNIST_MD5}
    monkeypatch.setattr(data_module, "MNIST_MD5", sums)
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module.pooch, "retrieve", _retrieve_from(tmp_path / "server"))
    labels = tmp_path / "server" / "t10k-labels-idx1-ubyte.gz"
    good = labels.read_bytes()
    labels.write_bytes(good[:-3])
    with pytest.raises(hl.DataUnavailable, match="t10k-labels-idx1-ubyte.gz was corrupt"):
        hl.mnist()
    labels.write_bytes(good)
    assert hl.mnist().train[0].shape == (4, 784)


def _retrieve_from(folder):
    """pooch.retrieve with its checksum test, reading from `folder` in place of the network."""
    retrieve = data_module.pooch.retrieve

    def download(url, output_file, pooch):
        output_file = output_file if hasattr(output_file, "write") else open(output_file, "wb")
        with output_file:
            output_file.write((folder / url.rsplit("/", 1)[1]).read_bytes())

    return lambda url, **options: retrieve(url, downloader=download, **{**options, "progressbar": False})


def test_the_real_mnist():
    folder = data_module.cache_folder() / "mnist"
    if not all((folder / name).exists() for name in data_module.MNIST_MD5):
        pytest.skip(f"MNIST is not in {folder}")
    data = hl.mnist()
    assert data.train[0].shape == (60000, 784) and data.test[0].shape == (10000, 784)
    assert data.train[1].bincount().tolist()[:2] == [5923, 6742]
    assert abs(float(data.train[0].mean())) < 1e-4 and float(data.train[0].std()) == pytest.approx(1)


@pytest.mark.parametrize("load, offline", [
    ("fashion_mnist", "digits"), ("cifar10", "digits"), ("text8", "docstrings")])
def test_the_error_without_a_network_names_the_right_default(load, offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    for module, url in ((data_module, "FASHION_MNIST_URL"), (data_module, "CIFAR10_URL"), (corpus_module, "TEXT8_URL")):
        monkeypatch.setattr(module, url, "http://127.0.0.1:9/file.gz")
    with pytest.raises(hl.DataUnavailable, match=rf"could not download.*hessinit_lite.{offline}\(\)"):
        getattr(hl, load)()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3072)).astype(np.uint8)
LABELS = [3, 0, 9, 1, 1, 5]


def cifar10_pickle(protocol=4, pixels=PIXELS, labels=LABELS):
    return pickle.dumps({b"data": pixels, b"labels": labels, b"batch_label": b"fake"}, protocol)


def python_2_pickle():
    """The same as Python 2 and an early NumPy wrote it: the official files' layout."""
    def string(text):
        return b"U" + bytes([len(text)]) + text

    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
             b"(K\x01K\x06M\x00\x0c\x86cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
             b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
             b"T" + struct.pack("<i", PIXELS.size) + PIXELS.tobytes() + b"tb")
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + labels + b"u."


def write_cifar10(folder, names=("data_batch_1", "data_batch_2", "test_batch"), content=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content or cifar10_pickle())


@pytest.fixture
def cifar10_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    return tmp_path / "cifar10" / "cifar-10-batches-py"


@pytest.mark.parametrize("content", [
    *(cifar10_pickle(protocol) for protocol in (2, 3, 4, 5)), python_2_pickle()],
    ids=["2", "3", "4", "5", "Python 2"])
@pytest.mark.filterwarnings("error")
def test_cifar10_files_of_other_sums_are_read_on_request_and_named(content, cifar10_folder):
    write_cifar10(cifar10_folder, content=content)
    with pytest.warns(UserWarning, match="has MD5 .*, expected ") as warned:
        data = hl.cifar10(allow_unverified=True, standardize=False)
    assert len(warned) == 3 and warned[0].filename == __file__
    assert data.name == "cifar10 (unverified files, 12 training pictures)"
    (x, t), (test_x, test_t) = data.train, data.test
    assert x.shape == (12, 3, 32, 32) and test_x.shape == (6, 3, 32, 32)
    np.testing.assert_allclose(test_x.numpy(), PIXELS.reshape(6, 3, 32, 32) / 255, rtol=1e-6)
    assert t.tolist() == 2 * LABELS and test_t.tolist() == LABELS and t.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_cifar10_is_standardized_over_the_training_pixels(cifar10_folder):
    write_cifar10(cifar10_folder)
    write_cifar10(cifar10_folder, ["test_batch"], cifar10_pickle(pixels=PIXELS // 2))
    data = hl.cifar10(allow_unverified=True)
    assert abs(float(data.train[0].mean())) < 1e-5 and float(data.train[0].std()) == pytest.approx(1)
    assert float(data.test[0].mean()) < -0.5  # by the training set's mean, not its own


def test_cifar10_files_of_other_sums_are_refused(cifar10_folder):
    write_cifar10(cifar10_folder)
    with pytest.raises(ValueError) as caught:
        hl.cifar10()
    found = data_module.pooch.file_hash(str(cifar10_folder / "data_batch_1"), alg="md5")
    for part in ("data_batch_1", found, data_module.CIFAR10_MD5["data_batch_1"], "allow_unverified"):
        assert part in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_cifar10_files_of_the_right_sums_need_no_permission(cifar10_folder, monkeypatch):
    write_cifar10(cifar10_folder)
    md5 = data_module.pooch.file_hash(str(cifar10_folder / "test_batch"), alg="md5")
    monkeypatch.setattr(data_module, "CIFAR10_MD5", {name: md5 for name in data_module.CIFAR10_MD5})
    assert hl.cifar10().name == "cifar10 (12 training pictures)"
    write_cifar10(cifar10_folder, ["data_batch_1"], pickle.dumps({
        "data": np.zeros((49_994, 3072), np.uint8), "labels": [0] * 49_994}))
    monkeypatch.setitem(data_module.CIFAR10_MD5, "data_batch_1", data_module.pooch.file_hash(
        str(cifar10_folder / "data_batch_1"), alg="md5"))
    assert hl.cifar10(standardize=False).name == "cifar10"  # 50,000 pictures


class Evil:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('evil').touch()",)


@pytest.mark.parametrize("content, words", [
    (pickle.dumps({b"data": Evil(), b"labels": [1]}), "it asks for builtins.exec"),
    (b"\x80\x04\x8d" + bytes(8 * [255]), "OverflowError"),  # a string of 2^64 - 1 bytes
    (b"\x80\x04\x8e" + bytes(7) + b"\x40", "MemoryError"),  # 2^62 bytes
    (pickle.dumps({b"data": PIXELS}), "labels"),
    (pickle.dumps([1, 2]), "'list' object"),
    (cifar10_pickle()[:-100], "truncated"),
    (b"no pickle", ""),
    (cifar10_pickle(labels=LABELS[:5]), "data and labels do not fit"),
    (cifar10_pickle(labels=[10] * 6), "labels outside 0..9"),
    (cifar10_pickle(pixels=PIXELS[:, :100]), "cannot reshape"),
], ids=["evil", "huge", "large", "no labels", "no dict", "truncated", "no pickle", "lengths",
        "label 10", "sizes"])
@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_broken_or_evil_cifar10_file_is_named(content, words, cifar10_folder, monkeypatch):
    write_cifar10(cifar10_folder)
    write_cifar10(cifar10_folder, ["data_batch_1"], content)
    monkeypatch.chdir(cifar10_folder)
    with pytest.raises(ValueError, match=rf"data_batch_1 is no CIFAR-10 batch \(.*{words}"):
        hl.cifar10(allow_unverified=True)
    assert not (cifar10_folder / "evil").exists()


@pytest.mark.parametrize("names", [["test_batch"], ["data_batch_3"]])
def test_cifar10_without_a_training_or_a_test_file(names, cifar10_folder):
    write_cifar10(cifar10_folder, names)
    with pytest.raises(ValueError, match=f"needs test_batch and at least one .* it has {names[0]}"):
        hl.cifar10(allow_unverified=True)


def write_cifar10_archive(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name in ["batches.meta", *data_module.CIFAR10_MD5]:
            content = cifar10_pickle()
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_cifar10_is_downloaded_and_read_out_of_its_archive(cifar10_folder, tmp_path, monkeypatch):
    archive = tmp_path / "server" / "cifar-10-python.tar.gz"
    write_cifar10_archive(archive)
    monkeypatch.setattr(data_module.pooch, "retrieve", _retrieve_from(archive.parent))
    with pytest.raises(hl.DataUnavailable, match="cifar-10-python.tar.gz was corrupt"):
        hl.cifar10()
    monkeypatch.setattr(data_module, "CIFAR10_ARCHIVE_MD5",
                        data_module.pooch.file_hash(str(archive), alg="md5"))
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz.data_batch_1 has MD5"):
        hl.cifar10()  # every file in the archive is checked, too
    monkeypatch.setattr(data_module.pooch, "retrieve", None)  # it is in the cache now
    with pytest.warns(UserWarning, match="has MD5"):
        data = hl.cifar10(allow_unverified=True)
    assert data.train[1].tolist() == 5 * LABELS and data.test[1].tolist() == LABELS


@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_broken_cifar10_archive_is_named(cifar10_folder):
    archive = cifar10_folder.parent / "cifar-10-python.tar.gz"
    write_cifar10_archive(archive)
    whole = archive.read_bytes()
    for content in (whole[:len(whole) // 2], b"no archive"):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="cifar-10-python.tar.gz is no tar.gz archive.*delete it"):
            hl.cifar10(allow_unverified=True)


@pytest.mark.parametrize("kind", ["DIRTYPE", "FIFOTYPE", "SYMTYPE", "LNKTYPE"])
@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_what_is_no_file_in_an_archive_is_named(kind, cifar10_folder):
    archive = cifar10_folder.parent / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/data_batch_2")
        info.type, info.linkname = getattr(tarfile, kind), "cifar-10-batches-py/nowhere"
        tar.addfile(info)
    words = r"cifar-10-python.tar.gz .*\(.*data_batch_2.*no plain file.*delete it"
    with pytest.raises(ValueError, match=words):
        hl.cifar10(allow_unverified=True)


@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_garbled_cifar10_archive_is_named(cifar10_folder):
    archive = cifar10_folder.parent / "cifar-10-python.tar.gz"
    write_cifar10_archive(archive)
    whole = archive.read_bytes()
    wrong_member = gzip.compress(b"cifar-10-batches-py/data_batch_1".ljust(512, b"x"))
    for content in (garbled(whole), wrong_member, gzip.compress(bytes(1024))):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="cifar-10-python.tar.gz .*[Dd]elete"):
            hl.cifar10(allow_unverified=True)


@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_the_cifar10_at_hand():
    folder = data_module.cache_folder() / "cifar10" / "cifar-10-batches-py"
    if not all((folder / name).exists() for name in ("data_batch_1", "test_batch")):
        pytest.skip(f"CIFAR-10 is not in {folder}")
    data = hl.cifar10(allow_unverified=True)
    pictures = len(data.train[0])
    assert pictures % 10_000 == 0 and data.train[0].shape[1:] == (3, 32, 32)
    assert (f"{pictures:,} training pictures" in data.name) == (pictures != 50_000)
    assert data.test[1].bincount().tolist() == 10 * [1000]
    assert float(data.train[0].std()) == pytest.approx(1, abs=1e-4)


def tiny_corpus():
    """A text of three words and a rare one."""
    return corpus_module._as_corpus("tiny", 50 * [["a", "b", "c", "a", "b", "rare"]] + [["b", "once"]], 2)


def test_a_corpus_numbers_words_by_frequency_and_drops_rare_ones():
    corpus = tiny_corpus()
    assert corpus.words == ["b", "a", "c", "rare"] and corpus.counts.tolist() == [101, 100, 50, 50]
    assert corpus.tokens[:7].tolist() == [1, 0, 2, 1, 0, 3, 1] and len(corpus.tokens) == 301
    assert torch.equal(corpus.tokens.bincount(), corpus.counts)
    assert corpus.tokens.dtype == corpus.counts.dtype == torch.int64
    with pytest.raises(ValueError, match="no word of tiny occurs 9 times: lower min_count"):
        corpus_module._as_corpus("tiny", [["a"]], 9)


@pytest.mark.parametrize("window", [1, 2])
def test_pairs_are_what_stands_within_the_window(window, generator):
    corpus = tiny_corpus()
    center, context = corpus.skip_gram_pairs(5000, window, generator)
    inside = range(window, len(corpus.tokens) - window)
    tokens = corpus.tokens.tolist()
    near = Counter((tokens[i], tokens[i + d]) for i in inside for d in range(-window, window + 1) if d)
    drawn = Counter(zip(center.tolist(), context.tolist()))
    for pair in set(near) | set(drawn):
        expected = near[pair] / near.total()
        assert drawn[pair] / 5000 == pytest.approx(expected, abs=4 * (expected / 5000) ** 0.5)


def test_pairs_and_batches_follow_the_seed():
    corpus = tiny_corpus()

    def batch(seed):
        return corpus.batch(20, 3, 4, torch.Generator().manual_seed(seed))[0]

    assert torch.equal(batch(0), batch(0)) and not torch.equal(batch(0), batch(1))


def test_a_batch_fits_the_skip_gram_network(generator):
    corpus = tiny_corpus()
    inputs, targets = corpus.batch(7, window=2, negatives=3, generator=generator, dtype=torch.float64)
    assert inputs.shape == (7, 5) and targets.shape == (7, 4) and targets.dtype == torch.float64
    assert targets.sum(0).tolist() == [7, 0, 0, 0]
    model = hl.SkipGram(len(corpus.words), 3).double()
    loss = F.binary_cross_entropy_with_logits(model(inputs), targets)
    assert loss.dtype == torch.float64 and bool(torch.isfinite(loss))


def test_negatives_follow_the_flattened_frequencies(generator):
    counts = torch.tensor([1000, 100, 10, 0])
    drawn = hl.draw_negatives(counts, (100, 300), generator)
    assert drawn.shape == (100, 300)
    share, expected = drawn.flatten().bincount(minlength=4) / 30_000, counts**0.75
    torch.testing.assert_close(share, expected / expected.sum(), rtol=0, atol=0.01)
    plain = hl.draw_negatives(counts, (30_000,), generator, power=1).bincount(minlength=4) / 30_000
    torch.testing.assert_close(plain, counts / counts.sum(), rtol=0, atol=0.01)


def test_subsampling_thins_the_frequent_words(generator):
    corpus = corpus_module._as_corpus("two", [["often"] * 99_000 + ["seldom"] * 1000], 1)
    thinned = corpus.subsample(0.01, generator)
    often, seldom = thinned.tokens.bincount().tolist()
    assert seldom == 1000 and often == pytest.approx(99_000 * (0.01 / 0.99) ** 0.5, rel=0.05)
    assert torch.equal(thinned.counts, corpus.counts) and thinned.words == corpus.words


@pytest.mark.parametrize("call, words", [
    (lambda c: c.skip_gram_pairs(5, window=0), "window must be a whole number of at least 1"),
    (lambda c: c.skip_gram_pairs(5, window=151), "below half the text's 301 words, got 151"),
    (lambda c: c.skip_gram_pairs(0), "size"),
    (lambda c: c.batch(5, negatives=0), "negatives"),
    (lambda c: c.subsample(0), "threshold must be positive"),
])
def test_impossible_draws_from_a_corpus(call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny_corpus())


def test_to_moves_a_corpus():
    moved = tiny_corpus().to("meta")
    assert moved.tokens.is_meta and moved.counts.is_meta and moved.words == tiny_corpus().words


def test_docstrings_are_english_and_the_same_again():
    corpus = hl.docstrings(("numpy",))
    assert hl.docstrings(("numpy",)) is corpus
    again = hl.docstrings.__wrapped__(("numpy",))
    assert torch.equal(corpus.tokens, again.tokens) and corpus.words == again.words
    assert corpus.name == again.name == f"docstrings of numpy {np.__version__}"
    assert corpus.words[0] == "the" and corpus.words.index("array") < 20
    assert len(corpus.tokens) > 100_000 and int(corpus.counts.min()) >= 5
    assert all(word.isascii() and word.isalpha() and word.islower() for word in corpus.words)


TOY_PACKAGE = """'''The  First-line.

    >>> hidden = 1
    ... hidden
    shown ... too'''
variable = 'hidden'  # hidden
if True:
    class Thing:
        "a Class"
        def method(self):
            r'a \\alpha'
            async def inner():
                'Inner'
            return 'hidden'
"""


def test_docstrings_leave_out_tests_code_and_examples(tmp_path, monkeypatch):
    package = tmp_path / "toy_package"
    (package / "tests").mkdir(parents=True)
    (package / "tests" / "__init__.py").write_text("'hidden'")
    (package / "__init__.py").write_text(TOY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    corpus = hl.docstrings.__wrapped__(("toy_package",), min_count=1)
    said = [corpus.words[i] for i in corpus.tokens.tolist()]
    assert said == "the first line shown too a class a alpha inner".split()
    assert corpus.name == "docstrings of toy_package"


def test_docstrings_of_a_broken_source_file_name_it(tmp_path, monkeypatch):
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for content in (b"def f(:", b"\0", 5000 * b"-" + b"1", b"\xff"):
        (package / "source.py").write_bytes(content)
        with pytest.raises(ValueError, match="source.py cannot be parsed.*'broken_package'"):
            hl.docstrings.__wrapped__(("broken_package",))


def test_docstrings_of_a_missing_package():
    for name in ("no_such_package.part", ".numpy", ""):
        with pytest.raises(ValueError, match="no package called .* is installed"):
            hl.docstrings((name,))
    with pytest.raises(ValueError, match="no package called 'no_such_package' is installed"):
        hl.docstrings(("no_such_package",))


@pytest.fixture
def text8_zip(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    path = tmp_path / "text8" / "text8.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", " anarchism is a term" + 3 * " of abuse")
    return path


def test_text8_is_read_after_a_warning_about_its_checksum(text8_zip):
    with pytest.warns(UserWarning, match=f"text8.zip has MD5 .*{corpus_module.TEXT8_MD5}") as warned:
        corpus = hl.text8(min_count=2)
    assert warned[0].filename == __file__
    assert corpus.words == ["abuse", "of"] and corpus.tokens.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("length", [1, 5, 19, 10**6])
def test_splitting_a_text_loses_no_word(length):
    text = " anarchism originated as a term of abuse"
    pieces = list(corpus_module._split(text, length))
    assert sum(pieces, []) == text.split() and (len(pieces) > 1) == (length < 20)


@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_broken_text8_is_named(text8_zip):
    whole = text8_zip.read_bytes()
    # ... and one that needs a password, one compressed in an unknown way
    locked, unknown = bytearray(whole), bytearray(whole)
    for start, name in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[whole.index(start) + name] |= 1
        unknown[whole.index(start) + name + 2] = 77
    for content in (b"no zip", whole[:-10], whole.replace(b"anarchism", b"Anarchism"), locked,
                    unknown):
        text8_zip.write_bytes(content)
        with pytest.raises(ValueError, match="text8.zip is no zip archive of text8.*delete it"):
            hl.text8()
