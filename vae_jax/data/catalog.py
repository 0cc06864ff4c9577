"""The data sets that this package can make, and the prepared ones on disk, read without TFDS."""

import contextlib
import fnmatch
import io
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from vae_jax.data.files import one_line
from vae_jax.errors import InputError, StorageError

HIDDEN = ".vae_jax_cache"  # the folder under data_dir that is ours; deleting it loses nothing
NAME = re.compile(r"(?P<name>[A-Za-z]\w*)(/(?P<config>[\w+.\-]+))?(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Builtin:
    """A data set that `prepare` can make; one without `archives` is embedded, and made on first use."""

    version: str
    builder: str  # the class in builders.py
    url: str = ""
    archives: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # split: (images, labels)


BUILTIN = {
    "digits": Builtin("1.0.0", "Digits"),
    "mnist": Builtin(
        "3.0.1",
        "Mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        },
    ),
    "moons": Builtin("1.0.0", "Moons"),
    "moons_full_half": Builtin("1.0.0", "MoonsFullHalf"),
    "moons_gap": Builtin("1.0.0", "MoonsGap"),
}


@dataclass(frozen=True)
class PreparedDataset:
    """A data set on disk; `splits` counts examples, `features` is TFDS's own description of each feature."""

    name: str
    config: str | None
    version: str
    directory: Path
    formats: tuple[str, ...]
    splits: dict[str, int]
    features: dict

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.config}" if self.config else self.name

    def image_feature(self) -> tuple[str, tuple[int, ...]]:
        """Key and shape (-1 where it varies) of the images: `image`, or the only uint8 feature [H, W, C].

        Raises InputError if it is not clear which one that is.
        """
        images = {}
        for key, spec in self.features.items():
            spec = spec.get("image") or spec.get("tensor") or {}
            shape = tuple(int(d) for d in spec.get("shape", {}).get("dimensions", ()))
            if len(shape) == 3 and spec.get("dtype", "uint8") == "uint8":
                images[key] = shape
        if "image" not in images and len(images) != 1:
            raise InputError(
                f"data.name={self.full_name!r}: its features are {', '.join(sorted(self.features))}; "
                "one named 'image', or just one of uint8 [H, W, C], is needed"
            )
        key = "image" if "image" in images else next(iter(images))
        return key, images[key]

    def label_feature(self) -> str | None:
        """The key of the labels: `label`, or the only ClassLabel; None where there is none."""
        classes = [key for key, spec in self.features.items() if "classLabel" in spec]
        return "label" if "label" in classes else classes[0] if len(classes) == 1 else None

    def describe(self) -> dict:
        """What a user sees of it; `shape` is None if the images cannot be told."""
        shape = None
        with contextlib.suppress(InputError):
            shape = list(self.image_feature()[1])
        return {
            "name": self.full_name,
            "version": self.version,
            "prepared": True,
            "splits": dict(self.splits),
            "shape": shape,
            "directory": str(self.directory),
        }


def resolve_data_dir(data_dir: str | os.PathLike | None) -> Path:
    """The folder of prepared data sets: the one given, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def scan(root: Path, name: str = "*") -> list[Path]:
    """The folders NAME[/CONFIG]/VERSION of prepared data sets under `root`, the oldest version first."""
    found = [info.parent for depth in ("*", "*/*") for info in root.glob(f"{name}/{depth}/dataset_info.json")]
    named = [p for p in found if VERSION.fullmatch(p.name) and NAME.fullmatch(p.relative_to(root).parts[0])]
    return sorted(named, key=lambda p: (p.parent, [int(part) for part in p.name.split(".")]))


def read_info(directory: Path) -> PreparedDataset:
    """Reads the metadata of a prepared data set. Raises StorageError if they are damaged."""
    try:
        info = json.loads((directory / "dataset_info.json").read_text())
        features = json.loads((directory / "features.json").read_text())["featuresDict"]["features"]
        name = "/".join(part for part in (info["name"], info.get("configName")) if part)
        if not NAME.fullmatch(f"{name}:{info['version']}") or ".." in name:  # folders are made by these names
            raise ValueError(f"the name {name} and version {info['version']}")
        return PreparedDataset(
            name=info["name"],
            config=info.get("configName"),
            version=info["version"],
            directory=directory,
            formats=(info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())),
            splits={s["name"]: sum(int(n) for n in s.get("shardLengths", ())) for s in info["splits"]},
            features=dict(features),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"data.name: the metadata in {str(directory)!r} are damaged ({one_line(error)}); "
            "remove that folder and prepare it again"
        ) from None


def find(name: str, root: Path) -> PreparedDataset | None:
    """The prepared data set that a TFDS name stands for: `name`, `name/config`, `name:version`; else None.

    Without a config it is TFDS's default one or the only one; without a version, the newest. Raises
    InputError if the name fits several configs, or a data set that is not in the array_record format.
    """
    if not (match := NAME.fullmatch(name)):
        return None
    home, version, config = root / match["name"], match["version"] or "*", match["config"]
    folders = [p for p in scan(root, match["name"]) if fnmatch.fnmatchcase(p.name, version)]
    newest = {p.parent.relative_to(home).as_posix(): p for p in folders}  # config, or "." where there are none
    if config is None and newest and "." not in newest:
        config = next(iter(newest)) if len(newest) == 1 else _default_config(home)
        if config not in newest:
            raise InputError(f"data.name={name!r}: has several configs; choose one of {', '.join(newest)}")
    if (folder := newest.get(config or ".")) is None:
        return None
    prepared = read_info(folder)
    if "array_record" not in prepared.formats:
        raise InputError(
            f"data.name={name!r}: is {prepared.formats[0]} in {str(folder)!r}; "
            "only array_record can be read, so prepare it in that format under another data.data_dir"
        )
    return prepared


def _default_config(home: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((home / ".config" / "metadata.json").read_text()).get("default_config_name")
    return None


def unknown_dataset_error(name: str, root: Path) -> InputError:
    """The error for a name that is not found: how to prepare it if it is ours, else the nearest name."""
    here = f"under data.data_dir={str(root)!r}"
    if name in BUILTIN:
        return InputError(f"data.name={name!r}: not prepared {here}; run `vae-jax data prepare {name}`")
    known = sorted({*BUILTIN, *(p.parent.relative_to(root).as_posix() for p in scan(root))})
    return InputError(
        f"data.name={name!r}: no such data set{close_match(name, known)}; allowed are {', '.join(known)}, "
        f"a TFDS data set prepared as array_record {here}, a .npy or .npz file, a folder of pictures"
    )


def close_match(name: str, known: list[str]) -> str:
    """' (did you mean ...?)' for the nearest of the known names, or nothing."""
    close = get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_QUIET = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what TFDS prints, logs and warns about; its errors pass.

    What it changes is the process's own, so one thread at a time is inside.
    """
    logger = logging.getLogger("absl")
    with _QUIET:
        level = logger.level
        try:
            logger.setLevel(logging.CRITICAL)
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)
