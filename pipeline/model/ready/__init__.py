"""Ready audio LLMs of transformers, fine-tuned with the same data, trainer and recipe. One file a class."""
