"""What a trained model computes: codes, reconstructions, samples, layers, and a prior fitted afterwards."""
