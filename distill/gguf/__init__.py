"""From a Hugging Face model folder to a GGUF file in one streaming pass, without torch."""
