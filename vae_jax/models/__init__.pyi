from .auxiliary import AuxiliaryConfig as AuxiliaryConfig, AuxiliaryVAE as AuxiliaryVAE
from .build import build_model as build_model, init_params as init_params
from .choices import (
    LikelihoodConfig as LikelihoodConfig,
    ModelConfig as ModelConfig,
    NetworkConfig as NetworkConfig,
    PosteriorConfig as PosteriorConfig,
    PriorConfig as PriorConfig,
)
from .code_priors import (
    CategoricalCodePrior as CategoricalCodePrior,
    CategoricalCodesConfig as CategoricalCodesConfig,
    UniformCodePrior as UniformCodePrior,
    UniformCodesConfig as UniformCodesConfig,
)
from .code_transformer import CodeTransformer as CodeTransformer, TransformerCodesConfig as TransformerCodesConfig
from .codes import (
    CodePriorConfig as CodePriorConfig,
    CodesConfig as CodesConfig,
    CodesVAE as CodesVAE,
    Quantized as Quantized,
    QuantizerConfig as QuantizerConfig,
    straight_through as straight_through,
)
from .conditional import (
    BaseConditionalConfig as BaseConditionalConfig,
    BaseConditionalVAE as BaseConditionalVAE,
    ConditionalConfig as ConditionalConfig,
    ConditionalVAE as ConditionalVAE,
    LabelPrior as LabelPrior,
)
from .conv import (
    ConvConfig as ConvConfig,
    ConvDecoder as ConvDecoder,
    ConvEncoder as ConvEncoder,
    ResidualConfig as ResidualConfig,
)
from .discrete_likelihoods import (
    CategoricalConfig as CategoricalConfig,
    NegativeBinomialConfig as NegativeBinomialConfig,
    PoissonConfig as PoissonConfig,
    ZeroInflatedNegativeBinomialConfig as ZeroInflatedNegativeBinomialConfig,
)
from .export import (
    PLATFORMS as PLATFORMS,
    LayerShape as LayerShape,
    decode as decode,
    embed as embed,
    encode as encode,
    export_programs as export_programs,
    join_codes as join_codes,
    latent_shapes as latent_shapes,
    layer_shape as layer_shape,
    sample as sample,
    sample_codes as sample_codes,
    split_codes as split_codes,
)
from .film import FiLM as FiLM
from .finite_scalars import (
    FiniteScalarConfig as FiniteScalarConfig,
    FiniteScalarQuantizer as FiniteScalarQuantizer,
    FiniteScalars as FiniteScalars,
)
from .flow_posteriors import (
    CouplingPosteriorConfig as CouplingPosteriorConfig,
    FlowPosteriorConfig as FlowPosteriorConfig,
    IAFPosteriorConfig as IAFPosteriorConfig,
    PlanarPosteriorConfig as PlanarPosteriorConfig,
)
from .flows import (
    ActNorm as ActNorm,
    AffineCouplings as AffineCouplings,
    AutoregressiveTransforms as AutoregressiveTransforms,
    FlowPosterior as FlowPosterior,
    FlowPrior as FlowPrior,
    PlanarTransforms as PlanarTransforms,
    SplineCouplings as SplineCouplings,
)
from .gumbel_softmax import GumbelQuantizer as GumbelQuantizer, GumbelSoftmaxConfig as GumbelSoftmaxConfig
from .image_classifier import ImageClassifier as ImageClassifier
from .ladder import (
    Ladder as Ladder,
    LadderConfig as LadderConfig,
    LadderMLPConfig as LadderMLPConfig,
    LadderSettings as LadderSettings,
)
from .ladder_blocks import BlockStyle as BlockStyle, Level as Level
from .layered import LayeredConfig as LayeredConfig, LayeredVAE as LayeredVAE
from .learned_priors import (
    AutoregressivePriorConfig as AutoregressivePriorConfig,
    CouplingPriorConfig as CouplingPriorConfig,
    LearnedPriorConfig as LearnedPriorConfig,
    MixtureConfig as MixtureConfig,
    MixturePrior as MixturePrior,
    SplinePriorConfig as SplinePriorConfig,
    VampConfig as VampConfig,
    VampPrior as VampPrior,
)
from .likelihoods import (
    BernoulliConfig as BernoulliConfig,
    ContinuousBernoulliConfig as ContinuousBernoulliConfig,
    GaussianLikelihoodConfig as GaussianLikelihoodConfig,
    HeteroscedasticGaussianConfig as HeteroscedasticGaussianConfig,
    LearnedGaussianConfig as LearnedGaussianConfig,
    LogisticMixtureConfig as LogisticMixtureConfig,
    StudentTConfig as StudentTConfig,
)
from .mlp import (
    MLPConfig as MLPConfig,
    MLPDecoder as MLPDecoder,
    MLPEncoder as MLPEncoder,
    TiedDecoder as TiedDecoder,
)
from .networks import ACTIVATIONS as ACTIVATIONS
from .posteriors import (
    ConditionalNormal as ConditionalNormal,
    DeterministicConfig as DeterministicConfig,
    FixedNoise as FixedNoise,
    FixedNoiseConfig as FixedNoiseConfig,
    GaussianPosteriorConfig as GaussianPosteriorConfig,
    PointMass as PointMass,
)
from .priors import StandardNormal as StandardNormal, StandardNormalConfig as StandardNormalConfig
from .replaced_prior import FittedCodes as FittedCodes, StandardizedPrior as StandardizedPrior, WithPrior as WithPrior
from .semi_supervised import SemiSupervisedConfig as SemiSupervisedConfig, SemiSupervisedVAE as SemiSupervisedVAE
from .vae import VAE as VAE, VAEConfig as VAEConfig, with_output_bias as with_output_bias
from .vector_conditions import (
    VectorConditionalConfig as VectorConditionalConfig,
    VectorConditionalVAE as VectorConditionalVAE,
)
from .vector_quantization import (
    ResidualVectorConfig as ResidualVectorConfig,
    VectorCodes as VectorCodes,
    VectorConfig as VectorConfig,
    VectorQuantizer as VectorQuantizer,
    nearest_codes as nearest_codes,
)
