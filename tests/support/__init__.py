"""What several tests share: strategies, a plain model, a log that commits late, a clock, forged keys."""
