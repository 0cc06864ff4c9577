"""How good a trained model is: bounds, likelihoods and errors of examples, with their protocol."""
