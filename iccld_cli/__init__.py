"""ICCLD: adversarially domain-adaptive latent diffusion for unsupervised semantic segmentation.

Source of the method: Yu, Sun, Chi, Yang, Luo, arXiv 2412.16859.
"""

__version__ = "0.1.0"
