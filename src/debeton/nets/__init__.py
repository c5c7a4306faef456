"""Networks: nothing here trains.

- models.py: models by name, and changes to one (its head, batch norm, device).
- networks.py: the project's own architectures, blurpool, and classifiers around a classifier.
- heads.py: last layers that a method fits anew.
- transfer.py: the body of a trained network under a fresh head.
- checkpoint.py: checkpoints, written whole, and read without running code from them.
- describe.py: the plain values by which a checkpoint describes its network and inputs.
- trained.py: a trained classifier apart from its run, used on any images.
- saliency.py: Grad-CAM.
"""
