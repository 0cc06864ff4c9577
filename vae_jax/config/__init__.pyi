from .building import (
    apply_overrides as apply_overrides,
    from_flat as from_flat,
    override as override,
    parse_setting as parse_setting,
    replace_settings as replace_settings,
    replace_unvalidated as replace_unvalidated,
    steps_only as steps_only,
)
from .fields import Rule as Rule, setting as setting
from .flat import (
    Setting as Setting,
    all_settings as all_settings,
    batchable_settings as batchable_settings,
    choices_with as choices_with,
    differences as differences,
    flatten as flatten,
    resumable_settings as resumable_settings,
    selected_settings as selected_settings,
    unknown_setting_error as unknown_setting_error,
)
from .presets import PRESETS as PRESETS
from .registry import (
    SECTIONS as SECTIONS,
    Choice as Choice,
    choice as choice,
    choices as choices,
    register as register,
    suggestion as suggestion,
)
from .schema import (
    Config as Config,
    DataConfig as DataConfig,
    EvaluationConfig as EvaluationConfig,
    MeshConfig as MeshConfig,
    TrainConfig as TrainConfig,
)
from .validation import (
    any_of as any_of,
    require as require,
    require_default as require_default,
    validate as validate,
)
