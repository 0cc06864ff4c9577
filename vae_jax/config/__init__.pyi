from .building import (
    apply_overrides as apply_overrides,
    from_flat as from_flat,
    override as override,
    parse_setting as parse_setting,
    replace_settings as replace_settings,
    replace_unvalidated as replace_unvalidated,
    steps_only as steps_only,
)
from .fields import Rule as Rule, Setting as Setting, setting as setting
from .flat import (
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
    require_default as require_default,
    validate as validate,
    validate_section as validate_section,
)
from .values import check_value as check_value, require as require, suggestion as suggestion
