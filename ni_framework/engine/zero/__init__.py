"""Training with DeepSpeed ZeRO; nothing outside imports deepspeed."""
