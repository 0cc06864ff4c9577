"""Prepared datasets that tests write, and changes to their metadata."""

import json

from vae_jax.data import catalog, preparation


def write_dataset(folder, name, features, example):
    """Prepare a dataset with a train split of 10 and a validation split of 3 examples.

    `features` maps the module tensorflow_datasets to a dict of features, `example` a number to the example.
    """
    with catalog.silence_tfds(), preparation._temporary_files_in(folder):
        import tensorflow_datasets as tfds

        class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("2.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features(tfds)), disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(10), "validation": self._generate_examples(3)}

            def _generate_examples(self, num):
                yield from ((i, example(i)) for i in range(num))

        Other.name = name
        tfds.disable_progress_bar()
        Other(data_dir=folder).download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


def edit_info(folder, **changes):
    """Change entries of `dataset_info.json` in the folder of a prepared dataset."""
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | changes))
