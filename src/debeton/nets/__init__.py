"""Networks: models, heads, transfer, saliency and checkpoints. Nothing here trains."""
