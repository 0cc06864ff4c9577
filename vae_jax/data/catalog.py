"""The built-in, the registered and the prepared datasets. Metadata on disk are read without importing TFDS."""

import contextlib
import fnmatch
import io
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from vae_jax.data.files import one_line
from vae_jax.errors import InputError, StorageError
from vae_jax.runtime import host

CACHE_FOLDER = ".vae_jax_cache"  # this package's folder below data_dir; it can be deleted without loss
NAME = re.compile(r"(?P<name>[A-Za-z]\w*)(/(?P<config>[\w+.\-]+))?(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
# The types of features that TFDS contains. TFDS would import the module of any other type.
FEATURE_TYPES = frozenset(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "audio_feature.Audio", "bounding_boxes.BBoxFeature", "class_label_feature.ClassLabel",
        "dataset_feature.Dataset", "feature.Tensor", "features_dict.FeaturesDict", "image_feature.Image",
        "labeled_image.LabeledImage", "scalar.Scalar", "sequence_feature.Sequence", "tensor_feature.Tensor",
        "text_feature.Text", "translation_feature.Translation", "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
)  # fmt: skip
TYPE_KEYS = ("pythonClassName", "python_class_name", "type")  # of features.json, in all of TFDS's formats


@dataclass(frozen=True)
class Builtin:
    """A dataset that `prepare` can make; one without `archives` is not downloaded and is prepared on first use."""

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
    "sprites": Builtin("1.0.0", "Sprites"),
}

Splits = Mapping[str, Mapping[str, Any]]  # {"train": {"x": ..., "y": ...}, "test": ...}
F = TypeVar("F", bound=Callable[[], Splits])
REGISTERED: dict[str, Callable[[], Splits]] = {}


def register_dataset(name: str) -> Callable[[F], F]:
    """Return a decorator that makes the data set of a function available as `data.name=NAME` in every command.

        @register_dataset("two-blobs")
        def two_blobs():
            return {"train": {"x": x, "y": y}}

    `vae-jax --import MODULE` imports the module of the function. The function runs when the data set is opened.

    Args:
      name: The name of the data set.

    Returns:
      The decorator. The function returns {"train": {"x": ..., "y": ..., "mask": ...}, "validation": ..., "test": ...}
      with arrays as for `from_arrays`; only the x of the split train is required. The same call must return the same
      arrays at each start of a run.

    Raises:
      InputError: The name cannot be distinguished from a path or a TFDS dataset, or another dataset has it.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise InputError(f"name={name!r} must be letters, digits, _ and -, and start with a letter; rename the dataset")
    if name in BUILTIN:
        raise InputError(f"name={name!r} is the name of a built-in dataset; use another name")

    def register(function: F) -> F:
        other = REGISTERED.get(name, function)
        if (other.__module__, other.__qualname__) != (function.__module__, function.__qualname__):
            raise InputError(f"name={name!r} is the name of {other.__module__}.{other.__qualname__}; use another name")
        REGISTERED[name] = function
        return function

    return register


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset on disk, as its metadata describe it.

    Attributes:
      name: The TFDS name.
      config: The TFDS config; None for a dataset without configs.
      version: The version, such as 3.0.1.
      directory: The folder of the files.
      formats: The file formats that the dataset is available in.
      splits: The number of examples of each split.
      features: TFDS's JSON description of each feature.
    """

    name: str
    config: str | None
    version: str
    directory: Path
    formats: tuple[str, ...]
    splits: dict[str, int]
    features: dict[str, Any]

    @property
    def full_name(self) -> str:
        """`name/config`, or `name` for a dataset without configs."""
        return f"{self.name}/{self.config}" if self.config else self.name

    def image_feature(self) -> tuple[str, tuple[int, ...]]:
        """Return key and shape (-1 where it varies) of the images: of `image`, or of the only uint8 [H, W, C].

        Raises:
          InputError: If no feature, or more than one, can be the images.
        """
        images = {}
        for key, spec in self.features.items():
            spec = spec.get("image") or spec.get("tensor") or {}
            shape = tuple(int(d) for d in spec.get("shape", {}).get("dimensions", ()))
            if len(shape) == 3 and spec.get("dtype", "uint8") == "uint8":
                images[key] = shape
        if "image" not in images and len(images) != 1:
            raise InputError(
                f"data.name={self.full_name!r} has the features {', '.join(sorted(self.features))}; "
                "use a dataset with one named 'image', or with exactly one of uint8 [H, W, C]"
            )
        key = "image" if "image" in images else next(iter(images))
        return key, images[key]

    def label_feature(self) -> str | None:
        """Return the key of the labels: `label`, or the only ClassLabel; None if there are no labels."""
        classes = [key for key, spec in self.features.items() if "classLabel" in spec]
        return "label" if "label" in classes else classes[0] if len(classes) == 1 else None

    def describe(self) -> dict[str, Any]:
        """Return the entry of `available`; `shape` is None if it is not clear which feature the images are."""
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
    """Return the folder of prepared datasets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return host.expand_home(os.fspath(folder), "data.data_dir")


def scan(root: Path, name: str = "*") -> list[Path]:
    """Return the folders NAME[/CONFIG]/VERSION of prepared datasets under `root`, the oldest version first."""
    folders = [info.parent for depth in ("*", "*/*") for info in root.glob(f"{name}/{depth}/dataset_info.json")]
    valid = [p for p in folders if VERSION.fullmatch(p.name) and NAME.fullmatch(p.relative_to(root).parts[0])]
    return sorted(valid, key=lambda p: (p.parent, [int(part) for part in p.name.split(".")]))


def read_info(directory: Path, root: Path) -> PreparedDataset:
    """Return the metadata of the dataset prepared in `directory`, a folder below `root`.

    Raises:
      StorageError: If the metadata are damaged.
      InputError: If the metadata name a type of features that TFDS does not contain.
    """
    try:
        info = json.loads((directory / "dataset_info.json").read_text())
        content = json.loads((directory / "features.json").read_text())
        _check_types(content, directory)
        features = content["featuresDict"]["features"]
        name = "/".join(part for part in (info["name"], info.get("configName")) if part)
        if not NAME.fullmatch(f"{name}:{info['version']}") or ".." in name:  # these names become names of folders
            raise ValueError(f"invalid name {name} or version {info['version']}")
        prepared = PreparedDataset(
            name=info["name"],
            config=info.get("configName"),
            version=info["version"],
            directory=directory,
            formats=(info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())),
            splits={s["name"]: sum(int(n) for n in s.get("shardLengths", ())) for s in info["splits"]},
            features=dict(features),
        )
        with contextlib.suppress(InputError):  # both are read here, so that damage to them is reported as damage
            prepared.label_feature()
            prepared.image_feature()
        return prepared
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        name = directory.parent.relative_to(root).as_posix()
        raise damaged_dataset_error(name, directory, directory, one_line(error)) from None


def _check_types(content: Any, directory: Path) -> None:
    """Raise InputError if a features.json names a type outside of the fixed list; its module must not be imported."""
    if isinstance(content, str):  # the features of some types are text that contains JSON
        with contextlib.suppress(ValueError):
            parsed = json.loads(content)
            if not isinstance(parsed, str):
                _check_types(parsed, directory)
    elif isinstance(content, dict):
        for key, value in content.items():
            if key in TYPE_KEYS and isinstance(value, str) and value not in FEATURE_TYPES:
                raise InputError(
                    f"data.name={directory.parent.name!r} has a feature of the type {value!r} in "
                    f"{str(directory / 'features.json')!r}, which is no type of TFDS; prepare the data set with other "
                    "features"
                )
            _check_types(value, directory)
    elif isinstance(content, list):
        for value in content:
            _check_types(value, directory)


def damaged_dataset_error(name: str, directory: Path, path: Path, reason: str) -> StorageError:
    """Return the error for a dataset in `directory` whose file `path` is damaged; the folder itself means metadata."""
    return StorageError(
        f"data.name={name!r} is damaged or incomplete ({str(path)!r}: {reason}); "
        f"remove {str(directory)!r} and prepare it again"
    )


def find(name: str, root: Path) -> PreparedDataset | None:
    """Return the prepared dataset of a TFDS name: `name`, `name/config` or `name:version`; None if there is none.

    Without a config, the config is TFDS's default one or the only one. Without a version, it is the newest version.

    Raises:
      InputError: If the name fits several configs, or a dataset that is not in the array_record format, or that names
        a type of features that TFDS does not contain.
      StorageError: If the metadata are damaged.
    """
    if not (match := NAME.fullmatch(name)):
        return None
    home, version, config = root / match["name"], match["version"] or "*", match["config"]
    folders = [p for p in scan(root, match["name"]) if fnmatch.fnmatchcase(p.name, version)]
    newest = {p.parent.relative_to(home).as_posix(): p for p in folders}  # config, or "." where there are none
    if config is None and newest and "." not in newest:
        config = next(iter(newest)) if len(newest) == 1 else _default_config(home)
        if config not in newest:
            configs = ", ".join(f"{match['name']}/{config}" for config in newest)
            raise InputError(f"data.name={name!r} has several configs; use one of {configs}")
    if (folder := newest.get(config or ".")) is None:
        return None
    prepared = read_info(folder, root)
    if "array_record" not in prepared.formats:
        raise InputError(
            f"data.name={name!r} is in the format {prepared.formats[0]} in {str(folder)!r}, but only array_record can "
            "be read; prepare it in that format under another data.data_dir"
        )
    return prepared


def _default_config(home: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((home / ".config" / "metadata.json").read_text()).get("default_config_name")
    return None


def unknown_dataset_error(name: str, root: Path) -> InputError:
    """Return the error for a name without a prepared dataset: how to prepare a built-in one, else similar names."""
    folder = f"under data.data_dir={str(root)!r}"
    if name in BUILTIN:
        return InputError(f"data.name={name!r} is not prepared {folder}; run `vae-jax data prepare {name}`")
    known = sorted({*BUILTIN, *REGISTERED, *(p.parent.relative_to(root).as_posix() for p in scan(root))})
    return InputError(
        f"data.name={name!r} is not a dataset{close_match(name, known)}; use one of {', '.join(known)}, "
        f"a TFDS dataset prepared as array_record {folder}, a .npy or .npz file, a folder of images, or a name that a "
        "module registers, which `vae-jax --import MODULE` imports"
    )


def close_match(name: str, known: list[str]) -> str:
    """Return ' (did you mean ...?)' with the most similar of the known names, or an empty string."""
    close = get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_SILENCE = threading.RLock()


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """Suppress what TFDS prints, logs and warns about; its errors propagate.

    The context changes settings of the process, so only one thread at a time can be inside.
    """
    logger = logging.getLogger("absl")
    with _SILENCE:
        level = logger.level
        try:
            logger.setLevel(logging.CRITICAL)
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)
