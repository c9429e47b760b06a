"""The engine that trains with DeepSpeed ZeRO. Nothing outside this package imports deepspeed."""
