from .base import Shape as Shape
from .bernoulli import Bernoulli as Bernoulli
from .deterministic import Deterministic as Deterministic
from .kl import kl_divergence as kl_divergence
from .logistic_mixture import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from .markov_chain import MarkovChain as MarkovChain
from .normal import Normal as Normal, standard_normal as standard_normal
