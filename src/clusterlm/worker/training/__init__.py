"""Fine-tuning: TRL's trainer, told what to learn from, when to save, and when to stop."""
