"""AudioLM: audio encoders, an adapter and a causal LM with LoRA, and ready audio LLMs beside it."""
