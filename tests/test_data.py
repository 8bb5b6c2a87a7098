"""Data sets: shapes, scaling, checksums, and clear errors when a file cannot be had."""

import gzip
import struct

import numpy as np
import pytest
import torch

import hessinit_lite as hl
from hessinit_lite import data as data_module


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
def test_mnist_files_are_read_after_a_warning_about_their_checksum(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    images, labels, test_images, test_labels = write_mnist(tmp_path / "mnist")
    with pytest.warns(UserWarning) as warned:
        data = hl.mnist(standardize=False)
    assert len(warned) == 4
    for warning, md5 in zip(warned, data_module.MNIST_MD5.values()):
        assert f"the official file has {md5}" in str(warning.message)
    np.testing.assert_allclose(data.train[0].numpy(), images.reshape(4, -1) / 255, rtol=1e-6)
    assert data.train[1].tolist() == labels.tolist() and data.test[1].tolist() == test_labels.tolist()
    assert data.test[0].shape == (4, 784)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"\0\0\x0d\x01abcd"), gzip.compress(b"")])
@pytest.mark.filterwarnings("ignore:.*has MD5")
def test_a_broken_file_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte.gz is no gzipped IDX file"):
        hl.mnist()


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
    with pytest.raises(hl.DataUnavailable, match="ValueError"):
        hl.mnist()
    assert not list((tmp_path / "cache").rglob("*.gz"))


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
