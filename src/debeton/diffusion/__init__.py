"""The project's own diffusion model (CDPM): small, conditional, in pixel space.

- model.py: the network, its noise schedule, its conditions, and the folder that holds them.
- denoising.py: the training objective. The training loop trains it as any other.
- sampling.py: images drawn from the model, with guidance and a seed for each image.
- copies.py: a check whether the model repeats training images.
"""
