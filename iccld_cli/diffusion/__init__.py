"""The noise process, the sampler, and the clean latent that is generated."""
