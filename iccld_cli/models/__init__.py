"""Networks: encoder, decoder, denoiser, discriminator and the segmenter that joins them."""
