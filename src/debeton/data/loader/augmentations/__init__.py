"""The augmentations by kind. Importing this package registers all of them; no other file names them.

- registry.py: what an augmentation is, and their registry.
- moves.py: mirrored images and shifted windows. patches.py: filled patches. Both fuse into the decoding.
- colours.py: colour jitter and greyscale. blurs.py: Gaussian blur. Kernels over the batch.
- policies.py: RandAugment and TrivialAugment.
- cut_mix.py: CutMix, which the training loop applies, because it mixes labels.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
