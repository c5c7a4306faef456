"""Networks: nothing here trains.

- architecture.py: the form in which every network says how it is built and what it takes.
- models.py: models by name, and changes to one (its head, batch norm, device).
- timm_networks.py, open_clip_networks.py, transformers_networks.py: the networks of these libraries.
- efficientnet_lite0.py: timm's network with the packaged weights.
- networks.py: the project's own architectures, blurpool, and classifiers around a classifier.
- heads.py: last layers that a method fits anew.
- transfer.py: the body of a trained network under a fresh head.
- checkpoint.py: checkpoints, written whole, and read without running code from them.
- weight_files.py, weight_fitting.py: weight files of any program, found, read, and fitted to a network by name.
- describe.py: the plain values by which a checkpoint describes its network and inputs.
- trained.py: a trained classifier apart from its run, used on any images.
- saliency.py: Grad-CAM.
"""
