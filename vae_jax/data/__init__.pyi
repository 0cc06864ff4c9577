from .cache import fingerprint as fingerprint
from .dataset import (
    Images as Images,
    describe_images as describe_images,
    load_images as load_images,
    training_images as training_images,
)
from .loading import (
    load as load,
    load_labels as load_labels,
    open_records as open_records,
    resolve_name as resolve_name,
)
from .moons import Moons as Moons, moon_parameters as moon_parameters, render_moons as render_moons
from .order import BatchOrder as BatchOrder, batch_indices as batch_indices
from .preparation import available as available, prepare as prepare
from .preprocess import binarize_once as binarize_once, mean_image as mean_image, read_images as read_images
from .records import Records as Records
from .splits import SPLITS as SPLITS
from .streaming import stream_batches as stream_batches
