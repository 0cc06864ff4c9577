from .cache import fingerprint as fingerprint
from .catalog import register_dataset as register_dataset
from .configured import ConfiguredSource as ConfiguredSource, can_resize as can_resize, open_source as open_source
from .dataset import (
    ArrayDataset as ArrayDataset,
    Arrays as Arrays,
    Dataset as Dataset,
    Summary as Summary,
    checksum_of_examples as checksum_of_examples,
    describe as describe,
    describe_held_out as describe_held_out,
)
from .kinds import KINDS as KINDS, Kind as Kind, infer_kind as infer_kind
from .labelled import LabelledRows as LabelledRows
from .loading import (
    load as load,
    load_labels as load_labels,
    open_records as open_records,
    resolve_name as resolve_name,
)
from .moons import Moons as Moons, moon_parameters as moon_parameters, render_moons as render_moons
from .order import BatchOrder as BatchOrder, batch_indices as batch_indices
from .preparation import available as available, prepare as prepare
from .preprocess import (
    DynamicBinarizationConfig as DynamicBinarizationConfig,
    IdentityConfig as IdentityConfig,
    Log1pConfig as Log1pConfig,
    OneHotConfig as OneHotConfig,
    PreprocessConfig as PreprocessConfig,
    ScaleConfig as ScaleConfig,
    StaticBinarizationConfig as StaticBinarizationConfig,
    ThresholdConfig as ThresholdConfig,
    binarize_once as binarize_once,
)
from .records import Records as Records
from .source import ArraySource as ArraySource, Source as Source, from_arrays as from_arrays, join_splits as join_splits
from .splits import ALL as ALL, SPLITS as SPLITS
from .sprites import Sprites as Sprites, render_sprites as render_sprites, sprite_factors as sprite_factors
from .streaming import stream_batches as stream_batches
