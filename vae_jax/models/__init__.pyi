from .build import ACTIVATIONS as ACTIVATIONS, build_model as build_model
from .conv import ConvDecoder as ConvDecoder, ConvEncoder as ConvEncoder
from .export import (
    PLATFORMS as PLATFORMS,
    decode as decode,
    embed as embed,
    encode as encode,
    export_programs as export_programs,
    latent_shapes as latent_shapes,
    sample as sample,
    sample_codes as sample_codes,
    split_codes as split_codes,
)
from .mlp import MLPDecoder as MLPDecoder, MLPEncoder as MLPEncoder, TiedDecoder as TiedDecoder
from .vae import (
    VAE as VAE,
    ConditionalNormal as ConditionalNormal,
    likelihood_features as likelihood_features,
    with_output_bias as with_output_bias,
)
