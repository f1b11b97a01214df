"""Code that several tests share: strategies, models, storages with late commits, clocks and forged keys."""
