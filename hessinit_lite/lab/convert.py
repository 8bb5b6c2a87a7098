"""`python -m hessinit_lite.lab.convert FILE ...`: name the data of older files' answers.

Files that were written before answers carried their data hold "unknown" in their place. Here every
such answer gets the label of the data that its experiment took then: those of `records.KNOWN`,
which the settings of the time told from any other by a fingerprint. What else an old file does not
say (NumPy, the commit, the processor's instructions) stays "unknown".
"""

import sys
from pathlib import Path

from .records import KNOWN
from .results import UNKNOWN, read, write

#: Data of the experiments whose settings do not name them.
BY_NAME = {"13-cifar-lenet-mnist": "mnist", "13-cifar": "cifar10", "13-cifar-epoch": "cifar10"}
BY_NAME |= {"13-cifar-lenet": "cifar10", "19-width": "digits"}
TEXTS = {
    "docstrings of numpy 2.4.6, scipy 1.17.1, sklearn 1.9.1": "7ecdca0e575970fa",
}


def data_of(name, setting):
    """Label of the data of an answer that an older module wrote.

    Args:
        name: of the experiment.
        setting: as it was stored.

    Raises:
        ValueError: for an experiment that did not exist then, or data that are not known.
    """
    if "text" in setting:
        known = TEXTS.get(setting["text"])
        found = f"{setting['text']} sha256:{known}" if known else None
    else:
        source = setting.get("data", BY_NAME.get(name))
        found = KNOWN.get(source)
        if "fingerprint" in setting:
            found = f"{source} sha256:{setting['fingerprint']}"
    if not found:
        raise ValueError(
            f"the data of {name}, setting {setting}, are not known: run it again, or name them in "
            "hessinit_lite/lab/convert.py"
        )
    return found


def convert(path):
    """Name the data of a file's answers, in place; those that have a name keep it.

    Returns:
        How many got one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a corrupt file, and as `data_of`; the file is then as it was.
    """
    path = Path(path)
    found = read(path)
    if found is None:
        raise FileNotFoundError(f"there is no file {path}")
    (environments, records), (name, size) = found, path.stem.rsplit("-", 1)
    old = [record for record in records if record["data"] == UNKNOWN]
    for record in old:
        record["data"] = data_of(name, record["setting"])
        record["setting"].pop("fingerprint", None)
    write(path, name, size, environments, records)
    return len(old)


def main(paths=None):
    """Convert the files that are named, and say how many answers changed. Returns 0."""
    for path in sys.argv[1:] if paths is None else paths:
        print(f"{path}: {convert(path)} answers got their data's name")
    return 0


if __name__ == "__main__":
    sys.exit(main())
