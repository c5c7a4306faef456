"""From raw folders to batches: sources, betons, views, orders, pipelines and the loader."""
