"""The mathematics of a variational autoencoder: networks, likelihoods, free energy, training, checkpoints."""
