"""Images: sources, splits, shards, statistics, augmentation."""
