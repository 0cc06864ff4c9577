from .building import (
    apply_overrides as apply_overrides,
    defaults_of_unused as defaults_of_unused,
    from_flat as from_flat,
    override as override,
    parse_setting as parse_setting,
    replace_unvalidated as replace_unvalidated,
    steps_only as steps_only,
)
from .flat import (
    differences as differences,
    flatten as flatten,
    flatten_mapping as flatten_mapping,
    suggestion as suggestion,
)
from .presets import PRESETS as PRESETS
from .schema import (
    OBJECTIVE_SETTINGS as OBJECTIVE_SETTINGS,
    RESUMABLE as RESUMABLE,
    SCHEDULES_SPANNING_STEPS as SCHEDULES_SPANNING_STEPS,
    Config as Config,
    DataConfig as DataConfig,
    EvaluationConfig as EvaluationConfig,
    MeshConfig as MeshConfig,
    ModelConfig as ModelConfig,
    ObjectiveConfig as ObjectiveConfig,
    OptimizerConfig as OptimizerConfig,
    TrainConfig as TrainConfig,
)
from .validation import (
    SINGLE_LAYER_OBJECTIVES as SINGLE_LAYER_OBJECTIVES,
    check_choices as check_choices,
    unused_settings as unused_settings,
    validate as validate,
)
