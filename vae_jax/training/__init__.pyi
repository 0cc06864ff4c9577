from .classification import (
    Reliability as Reliability,
    posterior_of_classes as posterior_of_classes,
    reliability as reliability,
    summarize_classes as summarize_classes,
)
from .evaluator import Evaluator as Evaluator
from .example_batches import evaluate_examples as evaluate_examples, padded_batches as padded_batches
from .image_classifier import TrainedClassifier as TrainedClassifier, train_classifier as train_classifier
from .loss import Loss as Loss, Preprocess as Preprocess, make_loss as make_loss, unprocessed as unprocessed
from .many_steps import train_steps as train_steps
from .metrics import (
    bits_per_dim as bits_per_dim,
    mean_and_error as mean_and_error,
    peak_signal_to_noise as peak_signal_to_noise,
)
from .optimizers import (
    OptimizerConfig as OptimizerConfig,
    ScheduleConfig as ScheduleConfig,
    make_optimizer as make_optimizer,
    make_schedule as make_schedule,
)
from .outliers import mark_outliers as mark_outliers
from .state import TrainState as TrainState, init_state as init_state
from .step import Step as Step, make_train_step as make_train_step
