"""The method: teacher, pseudo-labels, ClassMix, the two stages and the discriminator."""
